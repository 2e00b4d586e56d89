"""One hostile client of several: every kind of reply is refused by name, and the model is as without that client."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from hostile_replies import EQUAL, EVALUATE, TRAIN, WHO, Change, npy_header
from strategy_rounds import Load, federated, hashes

from fedinverse.accounting import composed_epsilon
from fedinverse.arrays import decode_bytes
from fedinverse.errors import ConfigError, IntegrityError, RefusedReplyError, StageError
from fedinverse.messages import CLIENT, read_model, read_report
from fedinverse.norms import length, square
from fedinverse.run import Run
from fedinverse.storage import read_jsonl, write_json
from fedinverse.words import plain
from pipeline.engines.local import LocalGrid
from pipeline.engines.simulated import SimulatedGrid
from server.roll_call import known_nodes
from strategies.averaging import Averaging
from strategies.outliers import far_off

HOSTILE = 2  # its partition
FAILS: Change = lambda _: (_ for _ in ()).throw(RuntimeError("it broke"))  # noqa: E731
TABLES = {"train": TRAIN, "evaluate": EVALUATE}


def hostile(monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, list[Change]], grid: Any = LocalGrid) -> None:
    """Have the hostile client answer train and evaluate messages of round t by its t-th change."""
    answer = grid.answer

    def changed(message: Message, reply: Message) -> Message:
        kind = message.metadata.message_type
        table = changes.get(kind, [])
        number = int(message.content["config"]["server-round"]) if "config" in message.content else 1
        if message.metadata.dst_node_id != HOSTILE + 1 or number > len(table):
            return reply
        try:
            return Message(table[number - 1](reply.content), metadata=reply.metadata)
        except RuntimeError as error:
            return Message(Error(0, str(error)), reply_to=message)

    def answers(self: SimulatedGrid, messages: list[Message], timeout: float | None) -> list[Message]:
        by_node = {message.metadata.dst_node_id: message for message in messages}
        replies = answer(self, messages, timeout)
        return [changed(by_node[reply.metadata.src_node_id], reply) for reply in replies]

    monkeypatch.setattr(grid, "answer", answers)


def errors_of(run: Run) -> dict[int, str]:
    lines = read_jsonl(run.files.server.client_reports("with_victim"))
    assert {line["partition"] for line in lines if "error" in line} <= {HOSTILE}
    return {line["round"]: line["error"] for line in lines if "error" in line}


COMMON: dict[str, Any] = {
    "data": {"private_limit": 200},
    "federation": {"fraction_train": 1.0, "fraction_evaluate": 0.0},
}


def without_it(tiny: Load, path: Path, rounds: int) -> list[str]:
    """Return the hashes of a federation in which the client fails in every round."""
    with pytest.MonkeyPatch.context() as patch:
        hostile(patch, {"train": [FAILS] * rounds})
        changes = {**COMMON, "federation": {**COMMON["federation"], "rounds": rounds}}
        return hashes(federated(tiny(**changes), path))


def test_every_kind_of_update_is_refused_and_costs_no_more_than_its_own_part(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One federation, a kind a round."""
    expected = without_it(tiny, tmp_path / "without", len(TRAIN))
    hostile(monkeypatch, {"train": list(TRAIN.values())})
    changes = {**COMMON, "federation": {**COMMON["federation"], "rounds": len(TRAIN)}}
    run = federated(tiny(**changes), tmp_path / "run")
    errors = errors_of(run)
    accepted = [kind for number, kind in enumerate(TRAIN, 1) if not errors.get(number, "").startswith("refused: ")]
    assert not accepted
    assert hashes(run) == expected
    assert all(np.isfinite(line.loss) for line in run.recorded_rounds("with_victim"))
    for name in ("clients.jsonl", "rounds.jsonl"):  # nothing of what it said in bulk is kept
        text = (run.files.server.federation("with_victim") / name).read_text()
        assert max(map(len, text.splitlines())) < 2000
        assert not any(ord(character) < 32 for character in text.replace("\n", ""))


def test_unusual_encodings_of_the_same_values_are_the_same_model(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**COMMON, "federation": {**COMMON["federation"], "rounds": len(EQUAL)}}
    expected = hashes(federated(tiny(**changes), tmp_path / "honest"))
    hostile(monkeypatch, {"train": list(EQUAL.values())})
    run = federated(tiny(**changes), tmp_path / "run")
    assert not errors_of(run)
    assert hashes(run) == expected


def test_the_same_on_actors(tiny: Load, tmp_path: Path, ray_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["NaN weights", "text", "num-examples a list", "half of a report on privacy", "header says 1 PB"]
    hostile(monkeypatch, {"train": [TRAIN[kind] for kind in kinds]}, ray_engine.RayGrid)
    changes = {
        **COMMON,
        "engine": {"kind": "ray", "actors": 1},
        "federation": {**COMMON["federation"], "rounds": len(kinds)},
    }
    run = federated(tiny(**changes), tmp_path / "run")
    assert set(errors_of(run)) == {1, 2, 3, 4, 5}
    assert hashes(run) == without_it(tiny, tmp_path / "without", len(kinds))


def test_every_kind_of_evaluation_is_refused(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    federation = {"rounds": len(EVALUATE), "fraction_train": 0.5}
    honest = federated(tiny(data={"private_limit": 200}, federation=federation), tmp_path / "honest")
    hostile(monkeypatch, {"evaluate": list(EVALUATE.values())})
    run = federated(tiny(data={"private_limit": 200}, federation=federation), tmp_path / "run")
    for number, kind in enumerate(EVALUATE, 1):
        assert f"round {number}: the reply of client {HOSTILE} was refused" in caplog.text, kind
    assert hashes(run) == hashes(honest)


@pytest.mark.parametrize("kind", WHO)
def test_a_node_that_does_not_say_who_it_is_takes_no_part(
    kind: str, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hostile(monkeypatch, {"query.who": [WHO[kind]]})
    federation = {"rounds": 1, "fraction_train": 1.0, "fraction_evaluate": 0.0}
    run = federated(tiny(data={"private_limit": 200}, federation=federation), tmp_path / "run")
    assert f"node {HOSTILE + 1} takes no part: " in caplog.text
    assert {line["partition"] for line in read_jsonl(run.files.server.ledger("with_victim"))} == {0, 1, 3}
    assert len(hashes(run)) == 2


def test_two_nodes_that_claim_one_partition_are_both_named(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(monkeypatch, {"query.who": [lambda content: _who(0)]})
    with pytest.raises(StageError, match=r"nodes 1, 3 all claim partition 0"):
        federated(tiny(federation={"rounds": 1}), tmp_path / "run")


def test_a_node_is_the_partition_that_its_registered_key_stands_for(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from fedinverse.run import prepare
    from pipeline.experiment import resolved

    experiment = tiny(federation={"rounds": 1})
    write_json(prepare(tmp_path / "run", resolved(experiment)).files.nodes, {"1": 0, "2": 1, "3": 2, "4": 3})
    hostile(monkeypatch, {"query.who": [lambda content: _who(0)]})
    run = federated(experiment, tmp_path / "run")
    assert "node 3 takes no part: it says it is partition 0; by nodes.json it is partition 2" in caplog.text
    assert len(hashes(run)) == 2
    write_json(run.files.nodes, {"1": 0, "2": 0})
    with pytest.raises(IntegrityError, match="each partition once"):
        known_nodes(run.path)


def _who(partition: int) -> RecordDict:
    return RecordDict({CLIENT: ConfigRecord({"partition": partition})})


def test_an_update_far_longer_than_the_others_is_refused_and_the_limit_is_the_servers() -> None:
    before = {"w": np.zeros(4, np.float32)}
    updates = [{"w": np.full(4, size, np.float32)} for size in (1.0, 1.1, 50.0, 0.9)]
    norms = {partition: length(update) for partition, update in enumerate(updates)}
    assert norms[2] == 100.0
    assert set(far_off(norms, before, 10.0)) == {2}
    assert "federation.max_update_norm" in far_off(norms, before, 10.0)[2]
    assert not far_off(norms, before, 100.0)
    assert not far_off(norms, before, 0.0)
    # Of two nobody can say who is off: the model's own length is the measure, not the other client's.
    assert not far_off({0: 2e-9, 1: 2.0}, {"w": np.ones(4, np.float32)}, 10.0)


def test_a_length_is_finite_only_if_all_values_are() -> None:
    old = np.zeros(100_000, np.float32)
    for dtype in (np.float16, np.float32, np.float64):
        values = old.astype(dtype)
        values[[3, 99_999]] = 3.0, 4.0
        assert square(values, old.astype(dtype)) == 25.0
        for broken in (np.nan, np.inf, -np.inf):
            values[50_000] = broken
            assert not np.isfinite(square(values, old.astype(dtype)))
    assert square(np.full(4, 1e30, np.float32), old[:4]) == np.inf  # beyond single precision, and refused as too long


def test_an_aggregate_that_cannot_be_made_leaves_the_model_as_it_was(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any) -> Any:
        raise ArithmeticError("overflow")

    monkeypatch.setattr(Averaging, "aggregate_train", explode)
    run = federated(tiny(federation={"rounds": 1, "fraction_train": 1.0}), tmp_path / "run")
    before, after = hashes(run)
    assert before == after
    assert "the updates of clients [0, 1, 2, 3] could not be aggregated (overflow)" in caplog.text


@pytest.mark.parametrize(
    "mechanism",
    [
        (np.nan, 0.1, 3),
        (-1.0, 0.1, 3),
        (np.inf, 0.1, 3),
        (1.0, np.nan, 3),
        (1.0, 0.0, 3),
        (1.0, 1.5, 3),
        (1.0, 0.1, -1),
        (1.0, 0.1, 0.5),
        (1.0, 0.1, np.nan),
        (1.0, 0.1, np.inf),
    ],
    ids=str,
)
def test_figures_that_are_no_mechanism_are_refused_before_the_accountant_sees_them(mechanism: Any) -> None:
    with pytest.raises(ConfigError):
        composed_epsilon([mechanism], 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, np.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        composed_epsilon([(1.0, 0.1, 3)], delta)


@pytest.mark.parametrize("noise", [1e-300, 1e-4, 1e300])
def test_extreme_noise_ends_at_once(noise: float) -> None:
    start = time.monotonic()
    epsilon = composed_epsilon([(noise, 0.5, 3)], 1e-5)
    assert epsilon == (np.inf if noise < 1 else pytest.approx(composed_epsilon([(1e3, 0.5, 3)], 1e-5)))
    assert time.monotonic() - start < 60


def test_words_of_others_are_one_bounded_line_without_control_characters() -> None:
    text = plain("a\x1b[31mb\nc\u202ed" + "x" * 1000, 20)
    assert text == "a\\x1b[31mb\\nc\\u202ed" + "x" * 9 + "… (991 more characters)"


def test_a_plugins_own_figures_are_kept_within_bounds() -> None:
    report = read_report(ConfigRecord({"partition": 1, "defence": "my.module:Defence", "note.pruned": 0.3}), 1)
    assert report == {"defence": "my.module:Defence", "note.pruned": 0.3}
    with pytest.raises(RefusedReplyError, match="note"):
        read_report(ConfigRecord({"partition": 1, **{f"note.n{i}": 1.0 for i in range(17)}}), 1)


@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0, 2**62), (1,) * 70, (True, True)])
def test_a_header_of_an_impossible_shape_is_refused_on_both_sides(shape: tuple[int, ...]) -> None:
    data = npy_header(shape) + bytes(4 * math.prod(shape))
    with pytest.raises(RefusedReplyError, match="array 'x' has an impossible shape"):
        decode_bytes(data, "array 'x'", (3, 2), np.dtype("f4"))
    with pytest.raises(IntegrityError, match="array 'x' has an impossible shape"):
        read_model(ArrayRecord({"x": Array("float32", shape, "numpy.ndarray", data)}), 1000)
