"""Canaries: who is planted where, what guesses prove, and that an account which they contradict is an alarm."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_in

from auditor.canaries import (
    CHANCE,
    Accounted,
    epsilon_bound,
    exposures,
    guess,
    measure,
    read_canaries,
    refuted,
    scores_of,
)
from auditor.verdict import Interval
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.canaries import Canaries, plant
from fedinverse.client_data import shard_of
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.models import build
from fedinverse.records import RoundLine, append_lines
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator, numpy_generator
from fedinverse.storage import read_json, save_weights, to_weights, write_json
from pipeline.experiment import resolved
from pipeline.stages.canaries import canaries
from report.console import console
from report.run.canaries import alarms, canary_table


@pytest.fixture
def planted(tiny: Callable[..., Any], tmp_path: Path) -> Run:
    """Return a prepared run of which 24 of the victim's images are canaries; nothing is trained."""
    model = {"name": "lenet5", "width": 1.0}
    experiment = tiny(canaries={"count": 24}, attacks=None, population={"malicious": 0}, model=model)
    return prepare(tmp_path / "run", resolved(experiment))


def test_half_of_the_canaries_are_at_the_victim_with_a_wrong_label_and_the_others_nowhere(planted: Run) -> None:
    manifest, victim = planted.split, planted.population.victim
    mine = manifest[manifest["part"] == "canary"]
    assert len(mine) == 24
    assert (mine["canary"] != mine["label"]).all()
    assert mine["canary"].between(0, 9).all()
    assert (manifest.loc[manifest["part"] != "canary", "canary"] == -1).all()
    assert set(mine["client"]) == {victim, -1}
    assert 5 <= int((mine["client"] == victim).sum()) <= 19  # 24 fair coins, with the seed of the test
    shard = shard_of(planted, victim, "with_victim")
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(shard.images, shard.labels, strict=True)}
    pool = planted.pools["private"]
    for row, label, client in zip(mine["row"], mine["canary"], mine["client"], strict=True):
        assert label_of.get(pool.tensor(np.array([row]))[0].numpy().tobytes()) == (label if client == victim else None)
    others = manifest[(manifest["client"] == victim) & (manifest["part"] == "train")]
    assert len(shard) == len(others) + int((mine["client"] == victim).sum())


def test_no_canary_is_in_a_control_world_and_without_the_section_nothing_changes(
    planted: Run, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    victim = planted.population.victim
    rows = planted.split[planted.split["part"] == "canary"]["row"].to_numpy()
    images = {image.numpy().tobytes() for image in planted.pools["private"].tensor(rows)}
    beside = shard_of(planted, victim, "without_victim")
    assert not images & {image.numpy().tobytes() for image in beside.images}
    plain = prepare(tmp_path / "plain", resolved(tiny(attacks=None, population={"malicious": 0})))
    assert "canary" not in plain.split
    same = planted.split["part"] != "canary"
    assert planted.split[same].drop(columns="canary").equals(plain.split[same])


def test_what_cannot_be_planted_is_refused_by_name(planted: Run, tiny: Callable[..., Any]) -> None:
    population, manifest = planted.population, planted.split.drop(columns="canary")
    with pytest.raises(ConfigError, match=r"canaries\.count is 400, more than half of the \d+ different images"):
        plant(manifest, Canaries(count=400), population, 10, 0)
    with pytest.raises(ConfigError, match=r"population\.overlap exclude each other"):
        plant(manifest, Canaries(count=10), population.model_copy(update={"overlap": 0.5}), 10, 0)
    with pytest.raises(ConfigError, match=r"canaries\.count"):
        tiny(canaries={"count": 3})


def test_no_right_guess_shows_nothing_and_all_right_the_known_bound() -> None:
    for right in (0, 5, 10):
        assert epsilon_bound(20, 20, right, 0.0, 0.95) == 0
    q = 0.05 ** (1 / 20)  # twenty right of twenty: q^20 = 1 - confidence
    assert epsilon_bound(20, 20, 20, 0.0, 0.95) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)
    assert epsilon_bound(20, 0, 0, 0.0, 0.95) == 0


def test_the_bound_rises_with_right_guesses_and_falls_with_confidence_and_delta() -> None:
    bounds = [epsilon_bound(60, 40, right, 1e-5, 0.95) for right in range(20, 41)]
    assert bounds == sorted(bounds)
    assert bounds[-1] > 2
    assert epsilon_bound(60, 40, 38, 1e-5, 0.99) < epsilon_bound(60, 40, 38, 1e-5, 0.95)
    assert epsilon_bound(60, 40, 38, 1e-2, 0.95) < epsilon_bound(60, 40, 38, 1e-5, 0.95)


def test_the_chance_of_so_many_right_guesses_is_theorem_5_2s_by_hand() -> None:
    # m = 4, r = 3, v = 2, epsilon = ln 3: q = 3/4, f(2) = 27/32, f(1) = 63/64, f(0) = 1; capped at 1.
    assert refuted(4, 3, 2, math.log(3), 0.0) == pytest.approx(27 / 32)
    steepest = max((63 / 64 - 27 / 32) / 1, (1 - 27 / 32) / 2)
    assert refuted(4, 3, 2, math.log(3), 0.01) == pytest.approx(27 / 32 + 2 * 4 * 0.01 * steepest)
    assert refuted(4, 3, 2, math.log(3), 0.5) == 1


def test_guessing_blindly_shows_something_in_no_more_than_one_of_twenty_cases() -> None:
    random = numpy_generator(0, "blind")
    wrong = [guess(random.normal(size=48), random.integers(2, size=48) == 1, 0.0, 0.95).epsilon > 0 for _ in range(400)]
    assert np.mean(wrong) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_randomised_response_is_bounded_by_its_own_epsilon() -> None:
    random, epsilon, m = numpy_generator(0, "response"), 1.5, 200
    bounds = []
    for _ in range(200):
        planted = random.integers(2, size=m) == 1
        honest = random.random(m) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(planted == honest, 1.0, 0.0) + 1e-9 * random.normal(size=m)
        bounds.append(guess(scores, planted, 0.0, 0.95).epsilon)
    assert np.mean(np.array(bounds) > epsilon) < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(bounds) > 0.5


def test_exposure_is_high_for_the_learned_and_by_rank() -> None:
    scores, planted = np.array([9.0, 1.0, 5.0, 2.0, 3.0, 4.0]), np.array([1, 1, 0, 0, 0, 0], bool)
    assert exposures(scores, planted) == pytest.approx([math.log2(5), 0.0])
    random = numpy_generator(0, "exposure")
    mean = exposures(random.normal(size=20_000), random.integers(2, size=20_000) == 1).mean()
    assert mean == pytest.approx(CHANCE, abs=0.05)


def test_a_score_is_the_labels_logit_less_the_mean_of_the_others() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 2.0, 4.0, 9.0]]).expand(len(images), 4)

    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    scores = scores_of(Fixed(), images, np.array([2, 0]), np.array([3, 1]))  # type: ignore[arg-type]
    assert scores == pytest.approx([4 - 1.5, 1 - 6.5])


def finished(run: Run, network: torch.nn.Module) -> None:
    """Leave in ``run`` what a federation of one round does, with ``network`` as its model."""
    sha = save_weights(run.files.server.checkpoint("with_victim", 1), to_weights(network), {"round": 1})
    append_lines(run.files.server.rounds("with_victim"), [RoundLine(1, 0.5, 1.0, None, (0.5,), sha)])


def test_an_overfitted_model_is_caught_and_an_account_that_it_contradicts_is_an_alarm(planted: Run) -> None:
    shard = shard_of(planted, planted.population.victim, "with_victim")
    network, settings = build("lenet5", 10, 1.0, seed=0), Training(epochs=60, batch_size=16, lr=0.05)
    train(network, shard, settings, make_defence("none", {}, "test"), generator(0, "overfit"))
    finished(planted, network)
    account = {"epsilon": 0.5, "delta": 1e-5, "central_epsilon": 40.0, "central_delta": 1e-5}
    write_json(planted.files.server.privacy("with_victim"), {"0": {"defence": "dp_sgd", "rounds": 1, **account}})
    with console.capture() as captured:
        report = canaries(planted)
    assert report.right == report.guesses == 12  # the coins fell unevenly: with 24 guesses some must be wrong
    assert report.epsilon == pytest.approx(epsilon_bound(24, 12, 12, 1e-5, 1 - 0.05 / 3))
    assert report.epsilon > 0.8
    assert report.epsilon <= report.most
    assert isinstance(report.exposure, Interval)
    assert report.exposure.low > CHANCE
    assert [(each.noise, each.contradicted) for each in report.accounted] == [("own", True), ("central", False)]
    assert report.alarm
    assert "alarm: By the victim's own noise an epsilon of 0.5 is accounted" in captured.get().replace("\n", " ")
    assert len(alarms(report)) == 1
    assert any("contradicted" in cell for row in canary_table(report).rows for cell in row)
    assert read_canaries(planted.files.auditor.canaries) == report
    assert canaries(planted) == report  # not measured again


def test_an_untrained_model_shows_nothing_and_no_account_is_said(planted: Run) -> None:
    finished(planted, planted.initial_network())
    report = measure(planted)
    assert report.epsilon == 0
    assert report.accounted == ()
    assert not report.alarm
    assert any("Nothing is accounted" in note for note in canary_table(report).notes)


def test_no_canaries_no_model_and_a_damaged_report_are_said(
    planted: Run, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="has no model yet"):
        measure(planted)
    plain = prepare(tmp_path / "plain", resolved(tiny(attacks=None, population={"malicious": 0})))
    with pytest.raises(StageError, match="has no canaries; add a section"):
        measure(plain)
    path = tmp_path / "canaries.json"
    write_json(path, {"version": 1})
    with pytest.raises(IntegrityError, match=r"canaries\.json: 'sha256'"):
        read_canaries(path)
    finished(planted, planted.initial_network())
    write_json(planted.files.server.privacy("with_victim"), {"0": {"epsilon": "much", "delta": 1.0}})
    with pytest.raises(IntegrityError, match=r"privacy\.json: 'epsilon'"):
        measure(planted)


def test_an_infinite_epsilon_is_no_account(planted: Run) -> None:
    finished(planted, planted.initial_network())
    write_json(planted.files.server.privacy("with_victim"), {"0": {"epsilon": "inf", "delta": 1e-5}})
    assert measure(planted).accounted == ()


def test_a_whole_run_measures_accounts_and_shows_it(tmp_path: Path) -> None:
    run = run_in(
        tmp_path,
        attacks=None,
        population={"malicious": 0},
        model={"name": "mcnn_gn"},
        canaries={"count": 24},
        cohorts=[{"defence": "dp_sgd", "fraction": 1.0}],
        federation={"rounds": 1, "fraction_train": 1.0},
    )
    report = read_canaries(run.files.auditor.canaries)
    account = read_json(run.files.server.privacy("with_victim"))["0"]
    assert report.accounted == (
        Accounted(noise="own", epsilon=account["epsilon"], delta=1e-5, bound=report.accounted[0].bound),
    )
    page = run.files.report.read_text()
    assert "guesses about 24 canaries are right" in page
    assert "accounted, the victim&#39;s own noise" in page
