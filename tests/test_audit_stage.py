"""The audit of a run whose federation was somebody else's: a deployed one, of which there is no second world."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from attacker.attacks.gmi import GMI
from attacker.inversion import Inversion
from attacker.worker import Bench
from auditor import scores
from auditor.controls import nearest_known, surest_known
from auditor.evaluators import embedding, evaluator
from auditor.evidence import Exhibit
from auditor.table import read_scores
from auditor.targets import Targets
from auditor.verdict import Interval, Missing, read_verdict
from fedinverse.data.source import unit
from fedinverse.models import build, for_inference
from fedinverse.run import Run, prepare
from pipeline.cli.main import app
from pipeline.engines import Engine, run_federation
from pipeline.experiment import resolved
from pipeline.stages.audit import audit, inputs_of
from pipeline.stages.controls import controls
from pipeline.stages.inversions import read_inversions
from pipeline.stages.invert import plan_of, planned


def test_a_deployed_attackers_directory_is_audited(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # The audit wants the world without the victim, which nobody can deploy: fails if that is passed over in silence.
    table = resolved(tiny(federation={"rounds": 2}, audit={"without_victim": True}, attacks={"gmi": {"captures": 5}}))
    deployed, run = prepare(tmp_path / "deployed", table), prepare(tmp_path / "auditor", table)
    run_federation(deployed, "with_victim", Engine(kind="local"))
    for part in ("federation", "attacker"):  # as docs/deployment.md says
        shutil.copytree(deployed.path / part, run.path / part)
    planned(run, controls(run)).work()
    audit(run)
    scored = read_scores(run.files.auditor.scores)
    assert set(scored["arm"]) == {"A", "B0", "B1", "B3", "B4", "B5", "T1", "CEIL"}
    verdict = read_verdict(run.files.verdict)
    assert verdict.outcome == "inconclusive"
    assert "only a federation without them can say" in verdict.reasons[0]
    fewer = "2 of the 5 captures asked for: no more of different weights"
    assert verdict.marks == (f"Attack 'gmi' on the model of round 2: {fewer}.",)
    assert isinstance(verdict.points[0].arms["A"], Interval)
    assert isinstance(verdict.points[0].leakage, Missing)
    left_out = pd.read_csv(run.files.auditor.root / "leakage.csv").set_index("figure")["omitted"]
    assert "B2" in left_out["corrected"]
    result = CliRunner().invoke(app, ["audit", str(run.path)])
    assert result.exit_code == 0, result.output
    assert (run.files.auditor.scores).exists()


def test_the_best_known_image_may_be_the_attackers_own() -> None:
    target = for_inference(build("mcnn", 4, width=0.1, seed=0))
    known = torch.randint(256, (6, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.tensor([2, 2, 1] + [3] * 8)
    nothing = torch.zeros(len(labels))
    exhibit = Exhibit(
        "A", "with_victim", 1, "gmi", torch.zeros(len(labels), 1, 32, 32), labels, nothing, nothing.bool()
    )
    nearest = nearest_known(exhibit, surest_known(target, known, labels), known)
    with torch.inference_mode():
        sure = target(unit(known)).softmax(1)
    order = sure.argsort(0, descending=True)
    assert nearest.arm == "B4"
    assert torch.equal(nearest.images[:3], unit(known[torch.stack([order[0, 2], order[1, 2], order[0, 1]])]))
    assert torch.equal(nearest.images[3:], unit(known[order[:, 3]].repeat(2, 1, 1, 1)[:8]))  # too few: they come again
    torch.testing.assert_close(nearest.confidence[:2], sure[order[:2, 2], 2])


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_the_surest_known_images_do_not_depend_on_chunks_and_ties_go_to_the_first(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails if a chunk's best push out better ones before it, or if ties fall as a sort happens to leave them.
    target = for_inference(build("mcnn", 4, width=0.1, seed=0))
    known = torch.randint(256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    known = torch.cat([known, known])  # every image twice
    labels = torch.tensor([0, 0, 0, 3])
    with torch.inference_mode():
        sure = target(unit(known[:5])).softmax(1)
    monkeypatch.setattr("auditor.controls._CHUNK", chunk)
    surest = surest_known(target, known, labels)
    best = sure[:, 0].argsort(descending=True)
    assert surest.rows[0].tolist() == [int(best[0]), int(best[0]) + 5, int(best[1])]
    assert surest.rows[3].tolist() == [int(sure[:, 3].argmax())]


def test_every_round_has_its_own_cost(attacked_run: Run) -> None:
    # It used to be the last attacked round's, whatever the primary round.
    inversions = read_inversions(attacked_run)
    assert set(inversions.costs) == {(attack, number) for attack in ("gmi", "second") for number in (2, 3)}
    for each in inversions.captured:
        about = each.inversion.about
        assert inversions.costs[each.attack, each.target.round].seconds == about.cost.seconds + about.prior_seconds


@pytest.mark.parametrize("name", ["evaluator", "embedding", "scores"])
def test_an_audit_by_an_older_evaluator_is_not_up_to_date(
    name: str, attacked_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = inputs_of(attacked_run).stamp
    module = {"evaluator": evaluator, "embedding": embedding, "scores": scores}[name]
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert inputs_of(attacked_run).stamp != before


def test_a_newer_attack_makes_its_inversions_again(attacked_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fails if what older code reconstructed is taken for what this code would.
    targets = Targets.read(attacked_run)

    def places() -> list[Inversion]:
        jobs = Bench(plan_of(attacked_run, targets)).jobs()
        return [job.where for job in jobs if job.label in attacked_run.table["attacks"]]  # the Type-I test's is not GMI

    before = {where.path for where in places()}
    monkeypatch.setattr(GMI, "version", GMI.version + 1)
    after = places()
    assert not before & {where.path for where in after}
    assert not any(where.done for where in after)


def test_the_type_i_test_has_no_prior_and_is_done_once(attacked_run: Run) -> None:
    # Fails if its images come from a generator, if it is run on another model, or for every attack.
    (only,) = [each for each in read_inversions(attacked_run).finished if each.target.arm == "T1"]
    about = only.inversion.about
    assert about.attack == "deepinversion"
    assert [about.settings[name] for name in ("bn", "tv", "l2", "shift", "iterations")] == [0, 0, 0, 0, 2]
    assert (only.target.round, only.target.world) == (3, "with_victim")
    scored = pd.read_parquet(attacked_run.files.auditor.scores)
    assert set(scored.loc[scored["arm"] == "T1", "attack"]) == {""}
    verdict = read_verdict(attacked_run.files.verdict)
    for point in verdict.points:  # beside every figure
        assert isinstance(point.arms["T1"], Interval)
