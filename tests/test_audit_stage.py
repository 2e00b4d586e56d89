"""The audit of a run whose federation was somebody else's: a deployed one, of which there is no second world."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from typer.testing import CliRunner

from attacker.worker import Bench
from auditor.controls import certainty, nearest_known
from auditor.evidence import Exhibit
from auditor.verdict import Interval, Missing, Verdict
from fedinverse.data.source import unit
from fedinverse.models import build, for_inference
from fedinverse.run import prepare
from pipeline.cli.main import app
from pipeline.engines import Engine, run_federation
from pipeline.experiment import resolved
from pipeline.stages.audit import audit
from pipeline.stages.invert import plan_of


def test_a_deployed_attackers_directory_is_audited(tiny: Callable[..., Any], tmp_path: Path) -> None:
    # The audit wants the world without the victim, which nobody can deploy: fails if that is passed over in silence.
    table = resolved(tiny(federation={"rounds": 2}, audit={"without_victim": True}))
    deployed, run = prepare(tmp_path / "deployed", table), prepare(tmp_path / "auditor", table)
    run_federation(deployed, "with_victim", Engine(kind="local"))
    for part in ("federation", "attacker"):  # as docs/deployment.md says
        shutil.copytree(deployed.path / part, run.path / part)
    Bench(plan_of(run)).work()
    scores = audit(run)
    assert set(scores["arm"]) == {"A", "B0", "B1", "B3", "B4", "B5", "CEIL"}
    verdict = Verdict.model_validate_json((run.files.verdict).read_text())
    assert verdict.outcome == "inconclusive"
    assert "without a federation that lacks him" in verdict.reasons[0]
    assert isinstance(verdict.points[0].arms["A"], Interval)
    assert isinstance(verdict.points[0].leakage, Missing)
    left_out = pd.read_csv(run.files.auditor.root / "leakage.csv").set_index("figure")["omitted"]
    assert "B2" in left_out["corrected"]
    shown = CliRunner().invoke(app, ["audit", str(run.path)])
    assert shown.exit_code == 0, shown.output
    assert (run.files.auditor.scores).exists()


def test_the_best_known_image_may_be_the_attackers_own() -> None:
    target = for_inference(build("mcnn", 4, width=0.1, seed=0))
    known = torch.randint(256, (6, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sure, labels = certainty(target, known), torch.tensor([2, 2, 1] + [3] * 8)
    nothing = torch.zeros(len(labels))
    shown = Exhibit("A", "with_victim", 1, "gmi", torch.zeros(len(labels), 1, 32, 32), labels, nothing, nothing.bool())
    found = nearest_known(shown, sure, known)
    order = sure.argsort(0, descending=True)
    assert found.arm == "B4"
    assert torch.equal(found.images[:3], unit(known[torch.stack([order[0, 2], order[1, 2], order[0, 1]])]))
    assert torch.equal(found.images[3:], unit(known[order[:, 3]].repeat(2, 1, 1, 1)[:8]))  # too few: they come again
    torch.testing.assert_close(found.confidence[:2], sure[order[:2, 2], 2])
