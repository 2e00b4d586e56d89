"""The federation on every engine: same seed, same hashes; captures equal the ledger; killed runs resume."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedinverse.arrays import to_record
from fedinverse.errors import IntegrityError, StageError
from fedinverse.flower import DEVICE, RUN_DIR, WORLD
from fedinverse.layout import WITH_VICTIM, WORLDS
from fedinverse.messages import ARRAYS, CLIENT, METRICS
from fedinverse.rounds import Round
from fedinverse.run import Run, prepare
from fedinverse.storage import load_weights, read_jsonl
from pipeline.engines import run_federation, session_of
from pipeline.engines.local import LocalGrid
from pipeline.engines.parcels import SHARED_MEMORY, Parcel, Reader
from pipeline.experiment import resolved
from pipeline.stages.federate import federate
from server.roll_call import roll_call
from strategies import Aggregation, Ledger, Participation, Selection, make_strategy

Load = Callable[..., Any]


def hashes(run: Run) -> list[str]:
    return [line.sha256 for line in run.recorded_rounds("with_victim")]


def federated(experiment: Any, path: Path) -> Run:
    run = prepare(path, resolved(experiment))
    run_federation(run, "with_victim", experiment.engine)
    return run


@pytest.fixture
def reference(tiny: Load, tmp_path: Path) -> Run:
    return federated(tiny(), tmp_path / "local")


@pytest.mark.parametrize("actors", [1, 2])
def test_ray_gives_the_same_models_as_local(actors: int, reference: Run, tiny: Load, tmp_path: Path) -> None:
    run = federated(tiny(engine={"kind": "ray", "actors": actors}), tmp_path / "ray")
    assert hashes(run) == hashes(reference)
    assert len(hashes(run)) == 4


def test_worlds_side_by_side_on_the_same_actors_give_the_models_of_one_after_the_other(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    opened = Reader.open

    # As where a user logs out whose shared memory is then emptied.
    def gone_once(reader: Reader, parcel: Parcel) -> Any:
        if parcel.path and not removed:
            removed.append(parcel.path)
            for path in SHARED_MEMORY.glob(f"fedinverse-{os.getpid()}-*"):
                path.unlink()
        return opened(reader, parcel)

    monkeypatch.setattr(Reader, "open", gone_once)
    runs, privacy = {}, {"kind": "server_fixed", "noise_multiplier": 0.01, "clipping_norm": 1.0}
    for kind in ("local", "ray"):
        federation = {"rounds": 5, "averaging": "unweighted", "privacy": privacy}
        experiment = tiny(
            federation=federation, model={"name": "mcnn_gn", "width": 0.25}, engine={"kind": kind, "actors": 1}
        )
        runs[kind] = prepare(tmp_path / kind, resolved(experiment))
        with session_of(experiment.engine) as session:
            federate(runs[kind], WORLDS, experiment.engine, session=session)
            if session is not None:
                from ray._private import worker  # not before the engine set Ray's environment

                assert worker._global_node.all_processes.keys() == {"gcs_server", "raylet"}  # and no watchers
                prefix = Path(session._prefix)
                assert prefix.parent == SHARED_MEMORY  # by which the models went
                files = len(list(SHARED_MEMORY.glob(f"{prefix.name}-*")))
                assert files <= 2 * len(WORLDS) * (1 + 4)  # two rounds' models and replies, in turn
    for world in WORLDS:
        local, ray = ([line.sha256 for line in runs[kind].recorded_rounds(world)] for kind in ("local", "ray"))
        assert local == ray
        assert len(ray) == 6
    assert removed
    assert not list(SHARED_MEMORY.glob(f"{prefix.name}-*"))


def test_an_error_in_one_world_stops_those_beside_it(tiny: Load, tmp_path: Path) -> None:
    experiment = tiny(federation={"rounds": 50}, engine={"kind": "ray", "actors": 1})
    run = prepare(tmp_path / "run", resolved(experiment))

    def full(over: Round) -> None:
        if over.world != WITH_VICTIM and over.number == 1:
            raise StageError("the disk is full")

    with pytest.raises(StageError, match="the disk is full"), session_of(experiment.engine) as session:
        federate(run, WORLDS, experiment.engine, after=[full], session=session)
    assert len(run.recorded_rounds(WITH_VICTIM)) < 51


def test_flower_runtime_gives_the_same_models_as_local(reference: Run, tiny: Load, tmp_path: Path) -> None:
    run = federated(tiny(engine={"kind": "flower", "actors": 2}), tmp_path / "flower")
    assert hashes(run) == hashes(reference)


def test_a_federation_leaves_nothing_in_the_environment(tiny: Load, tmp_path: Path) -> None:
    """A later ``flwr run`` of the same process would otherwise put its clients into this run."""
    names = (RUN_DIR, WORLD, DEVICE, "PYTHONPATH")
    before = {name: os.environ.get(name) for name in names}
    federated(tiny(federation={"rounds": 1}), tmp_path / "local")
    assert {name: os.environ.get(name) for name in names} == before


def test_another_seed_gives_other_models(reference: Run, tiny: Load, tmp_path: Path) -> None:
    assert hashes(federated(tiny(seed=1), tmp_path / "other")) != hashes(reference)


def test_every_capture_is_what_the_ledger_says_was_sent_to_the_attacker(reference: Run) -> None:
    attacker = reference.population.attackers[0]
    sent = {
        (line["round"], line["message-type"], line["sha256"])
        for line in read_jsonl(reference.files.server.ledger("with_victim"))
        if line["partition"] == attacker
    }
    spool = reference.files.attacker.spool("with_victim")
    receipts = read_jsonl(spool / "receipts.jsonl")
    assert {(line["round"], line["message-type"], line["sha256"]) for line in receipts} == sent
    assert {line["message-type"] for line in receipts} == {"train", "evaluate"}
    for line in receipts:
        assert load_weights(spool / line["file"])[1]["sha256"] == line["sha256"]
    # Flower's default fraction_evaluate of 1.0: every round's model reaches a client that never trained in it.
    models = {line.round: line.sha256 for line in reference.recorded_rounds("with_victim")}
    for number in (1, 2, 3):
        assert load_weights(spool / f"round-{number:04d}.safetensors")[1]["sha256"] == models[number]


def test_what_clients_tell_of_their_training_and_defence_is_kept(tiny: Load, tmp_path: Path) -> None:
    cohort = {"defence": "neg_label_smoothing", "clients": [1]}
    run = federated(tiny(cohorts=[cohort], federation={"rounds": 1, "fraction_train": 1.0}), tmp_path / "told")
    reports = {line["partition"]: line for line in read_jsonl(run.files.server.client_reports("with_victim"))}
    assert {partition: line["defence"] for partition, line in reports.items()} == {
        0: "none",
        1: "neg_label_smoothing",
        2: "none",
        3: "none",
    }
    assert all(line["num-examples"] > 0 for line in reports.values())


def test_only_the_malicious_node_captures(tiny: Load, tmp_path: Path) -> None:
    run = federated(tiny(population={"malicious": 0}, attacks=None), tmp_path / "honest")
    assert not run.files.attacker.spool("with_victim").exists()


@pytest.mark.parametrize("broken_after", [0, 1, 2])
def test_a_run_stopped_after_any_round_resumes_to_the_same_hashes(
    broken_after: int, reference: Run, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import server.app as server_app

    save = server_app.save_round

    def stop(over: Round) -> None:
        if over.number == broken_after + 1:
            raise KeyboardInterrupt
        save(over)

    monkeypatch.setattr(server_app, "save_round", stop)
    with pytest.raises(KeyboardInterrupt):
        federated(tiny(), tmp_path / "stopped")
    monkeypatch.undo()
    run = federated(tiny(), tmp_path / "stopped")
    assert hashes(run) == hashes(reference)


def test_a_damaged_checkpoint_stops_the_resume_by_name(reference: Run, tiny: Load) -> None:
    last = reference.files.server.checkpoint("with_victim", 3)
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"round-0003"):
        federated(tiny(), reference.path)


def test_participation_is_drawn_by_partition_not_by_node_id() -> None:
    policy = Participation(fraction_train=0.5)
    here = Selection(policy, 0, {10 + partition: partition for partition in range(8)})
    there = Selection(policy, 0, {900 - partition: partition for partition in range(8)})
    for server_round in range(5):
        a = [here.partitions[node] for node in here.train(server_round)]
        assert a == [there.partitions[node] for node in there.train(server_round)]
        assert len(a) == 4


def test_every_round_policy_includes_its_clients() -> None:
    policy = Participation(fraction_train=0.25, policy="every_round", always_train=(7,))
    selection = Selection(policy, 0, {partition + 1: partition for partition in range(8)})
    assert all(8 in selection.train(server_round) for server_round in range(10))


def _reply(node: int, weights: dict[str, Any], examples: int = 1) -> Message:
    sent = Message(RecordDict(), node, "train")
    content = RecordDict(
        {
            ARRAYS: to_record(weights),
            METRICS: MetricRecord({"num-examples": examples, "train-loss": 1.0, "train-accuracy": 0.5}),
            CLIENT: ConfigRecord({"partition": node - 1}),
        }
    )
    return Message(content, reply_to=sent)


def test_unsound_updates_are_refused_and_dtypes_kept(reference: Run, tmp_path: Path) -> None:
    grid = LocalGrid(reference, "with_victim")
    partitions = roll_call(grid, 4, 10, {})
    strategy: Any = make_strategy(Aggregation(), 4, 0, "config")
    strategy.begin(Selection(Participation(fraction_train=1.0), 0, partitions), Ledger(tmp_path / "l.jsonl"), 0)
    model = {"w": np.zeros(2, np.float32), "steps": np.array(0, np.int64)}
    strategy.configure_train(1, to_record(model), ConfigRecord(), grid)
    replies = [
        _reply(1, {"w": np.array([1, 1], np.float32), "steps": np.array(3, np.int64)}),
        _reply(2, {"w": np.array([3, 3], np.float32), "steps": np.array(4, np.int64)}),
        _reply(3, {"w": np.array([np.nan, 0], np.float32), "steps": np.array(4, np.int64)}),
        _reply(4, {"w": np.zeros(3, np.float32), "steps": np.array(4, np.int64)}),
    ]
    arrays: ArrayRecord
    arrays, _ = strategy.aggregate_train(1, replies)
    assert arrays["w"].numpy().tolist() == [2.0, 2.0]
    assert arrays["steps"].numpy().dtype == np.int64


def test_a_failing_client_does_not_stop_the_round(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import clients.app as client_app

    train = client_app.train

    def fail_first(model: Any, shard: Any, *rest: Any) -> Any:
        if len(shard) > 60:  # the victim
            raise RuntimeError("out of memory")
        return train(model, shard, *rest)

    monkeypatch.setattr(client_app, "train", fail_first)
    run = federated(tiny(federation={"fraction_train": 1.0}), tmp_path / "failing")
    assert len(hashes(run)) == 4
