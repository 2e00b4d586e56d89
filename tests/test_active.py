"""Active participants: off unless the operator says so, honest bit for bit when they add nothing, and visible."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, merged, run_in

from attacker.active.ascent import CANDIDATES, AscentParticipant
from attacker.active.gan import GanParticipant
from auditor.activity import NOT_WATCHED, ActiveReport, answer_to, less, read_active, share_of
from auditor.metrics.roc import paired_difference
from auditor.verdict import Interval, Missing
from clients.node import node_of
from clients.participant import make_participant
from clients.settings import Training
from clients.training import evaluate, train
from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import PASSIVE, WITH_VICTIM
from fedinverse.models import Classifier, build
from fedinverse.run import Run
from fedinverse.seeds import generator, numpy_generator
from fedinverse.shard import Shard, save_shard
from pipeline.deploy.local import deploy_local
from pipeline.deploy.parties import node_configs
from pipeline.experiment import load_experiment
from pipeline.stages.active import active
from strategies.watch import seen

SMALL_GAN = {"images": 8, "steps": 3, "batch_size": 8, "width": 0.1}


def own_shard(count: int = 24) -> Shard:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 32, 32), dtype=torch.uint8, generator=random)
    return Shard(images, torch.arange(count) % 3)


def trained(participant: Any, server_round: int = 1) -> Classifier:
    """Return what a client with ``participant`` sends; None: an honest client."""
    from clients.defences import make_defence

    network, shard = build("mcnn", 5, 0.1, seed=1), own_shard()
    images = participant.shard(network, shard, server_round) if participant else shard
    defence = make_defence("none", {}, "test")
    train(network, images, Training(batch_size=8, lr=0.05), defence, generator(3, "training", server_round))
    if participant:
        participant.reply(network, server_round)
    return network


def same(one: Classifier, other: Classifier) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def gan(directory: Path, **changes: Any) -> GanParticipant:
    return GanParticipant(SMALL_GAN | changes, 7, directory, "cpu", "test")


# ------------------------------------------------------------------ the GAN participant


def test_without_images_its_updates_are_the_honest_clients_bit_for_bit(tmp_path: Path) -> None:
    assert same(trained(gan(tmp_path, images=0)), trained(None))
    assert not same(trained(gan(tmp_path)), trained(None))


def test_its_generator_goes_on_and_a_repeated_round_is_the_same(tmp_path: Path) -> None:
    network, shard = build("mcnn", 5, 0.1, seed=1), own_shard()
    first = gan(tmp_path).shard(network, shard, 2)
    second = gan(tmp_path).shard(network, shard, 3)
    assert torch.equal(gan(tmp_path).shard(network, shard, 2).images, first.images)
    assert torch.equal(gan(tmp_path).shard(network, shard, 3).images, second.images)
    assert not torch.equal(first.images[-8:], second.images[-8:])
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())


def test_it_draws_a_class_it_lacks_and_names_it_as_one_it_holds(tmp_path: Path) -> None:
    network, shard = build("mcnn", 5, 0.1, seed=1), own_shard()
    union = gan(tmp_path).shard(network, shard, 1)
    assert len(union) == 32
    assert union.labels[24:].tolist() == [0] * 8
    assert gan(tmp_path, label=4).shard(network, shard, 1).labels[24:].tolist() == [4] * 8
    for wrong, words in (({"target": 9}, "classes 0 to 4"), ({"target": 0}, "another one")):
        with pytest.raises(ConfigError, match=words):
            gan(tmp_path, **wrong).shard(network, shard, 1)
    everything = Shard(shard.images[:5], torch.arange(5))
    with pytest.raises(ConfigError, match="images of every class"):
        gan(tmp_path).shard(network, everything, 1)


def test_its_generator_learns_what_the_model_takes_for_the_class(tmp_path: Path) -> None:
    network, shard = build("mcnn", 5, 0.1, seed=1), own_shard()
    images = {steps: gan(tmp_path / str(steps), steps=steps, lr=5e-3).shard(network, shard, 1) for steps in (0, 40)}
    target = {steps: Shard(made.images[24:], torch.full((8,), 3)) for steps, made in images.items()}
    loss = {steps: evaluate(network, made)[0] for steps, made in target.items()}
    assert loss[40] < loss[0]


# ------------------------------------------------------------------ gradient ascent


def test_ascent_raises_the_loss_of_the_first_half_alone(tmp_path: Path) -> None:
    asked = own_shard(20)
    save_shard(tmp_path / "candidates", asked)
    pushing = AscentParticipant({"gamma": 0.5}, 0, tmp_path, "cpu", "test")
    pushed = Shard(asked.images[:10], asked.labels[:10])
    before, after = evaluate(trained(None), pushed)[0], evaluate(trained(pushing), pushed)[0]
    assert after > before
    assert same(trained(AscentParticipant({"gamma": 1e-30}, 0, tmp_path, "cpu", "test")), trained(None))


# ------------------------------------------------------------------ who turns it on


def node_config(tmp_path: Path, **more: Any) -> Any:
    save_shard(tmp_path / "data", own_shard())
    own = {"partition-id": 0, "data-path": str(tmp_path / "data"), "seed": 1}
    return SimpleNamespace(node_config=own | more, run_config={})


def test_only_a_malicious_nodes_operator_turns_it_on(tmp_path: Path) -> None:
    spool = {"spool": str(tmp_path / "spool")}
    active = {"active": "gan", "active-settings.images": 4}
    assert node_of(node_config(tmp_path, role="malicious", **spool)).participant() is None
    acting = node_of(node_config(tmp_path, role="malicious", **spool, **active))
    found = acting.participant()
    assert isinstance(found, GanParticipant)
    assert found.settings.images == 4
    for wrong, words in (
        ({**active}, 'role="malicious"'),
        ({"role": "malicious", **active}, "needs 'spool'"),
        ({"role": "malicious", **spool, "active": "worm"}, "'worm' is unknown; use one of gan, ascent"),
        ({"role": "malicious", **spool, "active": "gan", "active-settings.image": 4}, "did you mean 'images'"),
    ):
        with pytest.raises(ConfigError, match=words):
            node_of(node_config(tmp_path, **wrong))


def test_a_config_with_an_unknown_kind_is_refused_before_the_run(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="'worm' is unknown"):
        tiny(active={"kind": "worm"})
    with pytest.raises(ConfigError, match="did you mean 'images'"):
        tiny(active={"kind": "gan", "image": 3})
    with pytest.raises(ConfigError, match="needs an attacker"):
        tiny(active={"kind": "gan"}, attacks=None, population={"malicious": 0})
    with pytest.raises(ConfigError, match="watch_updates"):
        tiny(federation={"watch_updates": True, "fraction_train": 1.0, "secure_aggregation": {"enabled": True}})


def test_make_participant_takes_registered_kinds_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client 3: active '' is unknown"):
        make_participant("", {}, 0, tmp_path, "cpu", "client 3")


# ------------------------------------------------------------------ what a server sees


def test_an_update_of_another_direction_is_seen() -> None:
    random = np.random.default_rng(0)
    steps = random.normal(size=(9, 200)) * 0.1 + 1.0
    steps[4] = -3.0
    lines = seen(steps)
    assert [line["krum"] for line in lines][4] == 9
    assert [line["krum-drops"] for line in lines] == [place == 4 for place in range(9)]
    assert [line["median-drops"] for line in lines] == [place == 4 for place in range(9)]
    assert lines[4]["trimmed"] == 1.0
    assert lines[4]["trimmed-drops"]
    assert lines[4]["cosine"] < -0.9
    assert lines[4]["z"] > 10
    assert lines[0]["norm"] == pytest.approx(np.linalg.norm(steps[0]))
    assert sum(line["trimmed"] for line in lines) == pytest.approx(2)  # one coordinate on each side


def test_of_few_updates_little_is_defined() -> None:
    lines = seen(np.eye(2))
    assert [(line["krum"], line["trimmed"], line["median-drops"], line["z"]) for line in lines] == [(None,) * 4] * 2
    assert lines[0]["cosine"] == 0.0
    assert seen(np.ones((1, 3)))[0]["cosine"] is None


# ------------------------------------------------------------------ answers


def report(one: float, other: float, **more: Any) -> ActiveReport:
    shares = [share_of([True] * round(100 * value) + [False] * round(100 * (1 - value))) for value in (one, other)]
    return ActiveReport(
        kind="gan",
        gain="share",
        leakage={"active": shares[0], "no victim": shares[1]},
        difference=more.get("difference", less(*shares)),
        control="the same without the victim",
        resolution=0.25,
        accuracy={},
        visible=Missing(omitted=NOT_WATCHED),
    )


def test_the_answer_follows_from_the_difference() -> None:
    assert answer_to(report(0.9, 0.1)).outcome == "yes"
    assert answer_to(report(0.5, 0.3)).outcome == "in part"
    assert answer_to(report(0.1, 0.1)).outcome == "no"
    assert answer_to(report(0.4, 0.3)).outcome == "inconclusive" or answer_to(report(0.4, 0.3)).outcome == "no"
    answer = answer_to(report(0.9, 0.1, difference=Missing(omitted="no control")))
    assert answer.outcome == "inconclusive"
    assert NOT_WATCHED in answer.marks


def test_two_scores_of_the_same_candidates_are_compared_candidate_by_candidate() -> None:
    random = np.random.default_rng(0)
    member, scores = np.arange(200) < 100, random.normal(size=200)
    same_scores = paired_difference(scores, scores * 2, member, numpy_generator(0, "pairs"), 100)
    assert (same_scores.value, same_scores.low, same_scores.high) == (0.0, 0.0, 0.0)
    better = paired_difference(scores + 2 * member, scores, member, numpy_generator(0, "pairs"), 100)
    assert better.low > 0.2


# ------------------------------------------------------------------ of a run


@pytest.fixture(scope="module")
def active_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with two GAN participants, its passive twin and the world without the victim."""
    run = run_in(
        tmp_path_factory.mktemp("active"),
        attacks=None,
        population={"clients": 6, "malicious": 2},
        federation={"rounds": 2, "fraction_train": 1.0, "watch_updates": True},
        active={"kind": "gan", **SMALL_GAN},
        audit={"without_victim": True, "primary": {"ceiling": 0.0}},
    )
    assert isinstance(run, Run)
    return run


def test_a_run_says_what_it_won_and_what_the_server_could_see(active_run: Run) -> None:
    report = read_active(active_run.files.auditor.active)
    assert set(report.leakage) == {"active", "no victim", "real images"}
    assert isinstance(report.difference, Interval)
    assert set(report.accuracy) == {WITH_VICTIM, PASSIVE, "without_victim"}
    assert not isinstance(report.visible, Missing)
    whose = {line.whose: line.updates for line in report.visible}
    assert whose == {"the attacker, active": 4, "the same client, passive": 4, "the other clients": 8}
    assert report.gain.startswith("share of 200 samples of each of 2 generators that")
    page = active_run.files.report.read_text()
    assert "Would the server have noticed?" in page
    assert "8 generated images under a wrong label" in page
    answer = json.loads(active_run.files.auditor.answer("active").read_text())
    assert answer["outcome"] in ("yes", "in part", "no", "inconclusive")


def test_an_evaluator_that_cannot_read_real_images_answers_nothing(active_run: Run, tmp_path: Path) -> None:
    there = tmp_path / "run"
    shutil.copytree(active_run.path, there)
    table = json.loads((there / "config.json").read_text())
    table["audit"]["primary"]["ceiling"] = 1.0
    (there / "config.json").write_text(json.dumps(table))
    report = active(Run(there))
    assert isinstance(report.difference, Missing)
    assert "of real images of the class" in report.difference.omitted
    assert answer_to(report).outcome == "inconclusive"


def test_the_worlds_differ_by_what_the_attacker_does(active_run: Run) -> None:
    start = [active_run.recorded_rounds(world)[0].sha256 for world in (WITH_VICTIM, PASSIVE)]
    end = [active_run.recorded_rounds(world)[-1].sha256 for world in (WITH_VICTIM, PASSIVE)]
    assert start[0] == start[1]
    assert end[0] != end[1]
    for client in (4, 5):
        states = active_run.files.attacker.active(WITH_VICTIM).glob(f"client-{client}/gan-*.safetensors")
        assert sorted(path.name for path in states) == ["gan-0001.safetensors", "gan-0002.safetensors"]
    assert not active_run.files.attacker.active(PASSIVE).exists()


def test_the_same_node_is_told_so_in_a_deployment_and_the_server_is_not(active_run: Run) -> None:
    configs = node_configs(active_run)
    assert [config.get("active") for config in configs] == [None] * 4 + ["gan"] * 2
    assert configs[5]["active-settings.images"] == 8


def test_deploying_gives_every_malicious_node_the_records_that_ascent_asks_about(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []

    def deployed(run: Run) -> int:
        for number in run.population.attackers:
            beside = Path(str(node_configs(run)[number]["spool"])).parent / "active" / f"client-{number}"
            there.append((beside / CANDIDATES / "labels.npy").exists())
        raise StageError("far enough")

    monkeypatch.setattr("pipeline.deploy.local.federate_deployed", deployed)
    asked = {"attacks": None, "active": {"kind": "ascent"}, "membership": {"with_vault": True}}
    experiment = tiny(population={"malicious": 2}, **asked)
    with pytest.raises(StageError, match="far enough"):
        deploy_local(experiment, resume=False)
    assert there == [True, True]


def test_a_passive_attackers_federation_is_the_passive_world(active_run: Run, tmp_path: Path) -> None:
    import tomli_w

    from pipeline.stages.all_stages import run_all

    table = merged(
        TINY,
        {
            "attacks": None,
            "population": {"clients": 6, "malicious": 2},
            "federation": {"rounds": 2, "fraction_train": 1.0},
        },
    )
    path = tmp_path / "passive.toml"
    path.write_text(tomli_w.dumps(table))
    honest = Run(run_all(load_experiment(str(path), [], tmp_path / "runs"), resume=False).parent)
    hashes = [[line.sha256 for line in run.recorded_rounds(world)] for run, world in
              ((active_run, PASSIVE), (honest, WITH_VICTIM))]  # fmt: skip
    assert hashes[0] == hashes[1]
