"""The main job, whole: a config in, a report out; stopped and altered on the way."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import run_in

from attacker.inversion import RECONSTRUCTIONS
from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.verdict import Verdict
from fedinverse.errors import ConfigError, StageError
from fedinverse.run import Run
from fedinverse.storage import atomic_write
from pipeline.stages.all_stages import run_all
from pipeline.stages.invert import control_targets, inversions_of

ROOT = Path(__file__).parent.parent
Load = Callable[..., Any]


def results(run: Run) -> dict[str, str]:
    """Return a hash of everything that must not depend on when or where a run was stopped."""
    made = {"rounds": str([line["sha256"] for line in run.recorded_rounds("with_victim")])}
    for (label, weights), inversion in inversions_of(run).items():
        content = (inversion.path / RECONSTRUCTIONS).read_bytes()
        made[f"{label} {weights.name}"] = hashlib.sha256(content).hexdigest()
    made["scores"] = hashlib.sha256((run.files.auditor.root / "scores.csv").read_bytes()).hexdigest()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return the tiny experiment, run with nothing in its way; nobody alters it."""
    run: Run = run_in(tmp_path_factory.mktemp("whole"))
    return run


@pytest.fixture
def again(whole: Run, tmp_path: Path) -> Run:
    """Return a copy of the whole run where ``tiny()`` looks for its own."""
    return Run(Path(shutil.copytree(whole.path, tmp_path / "runs" / "tiny")))


def test_from_config_to_report(tiny: Load) -> None:
    page = run_all(tiny(audit={"without_victim": True}, attacker={"processes": 2}), resume=False)
    run = Run(page.parent)
    scores = pd.read_csv(run.files.auditor.root / "scores.csv")
    assert set(scores["arm"]) == {"A", "B0", "B1", "B2", "B3", "B4", "B5", "CEIL"}
    assert set(scores.loc[scores["arm"] == "A", "label"]) == {WHOLE_SET, 0, 1}
    shares = [name for name, metric in METRICS.items() if metric.share]
    assert scores.loc[scores["metric"].isin(shares), "value"].between(0, 1).all()
    verdict = Verdict.model_validate_json((run.files.verdict).read_text())
    assert verdict.outcome == "inconclusive"  # three attack steps find nothing, two classes allow no "no"
    html = page.read_text()
    assert "data:image/png;base64," in html
    assert not re.findall(r"""(?:src|href)=["']https?:""", html)  # nothing is fetched
    assert verdict.sentence in html


def test_again_without_resume_is_refused_and_with_resume_does_nothing_twice(again: Run, tiny: Load) -> None:
    before = results(again)
    stamps = {path: path.stat().st_mtime_ns for path in again.path.rglob("*.safetensors")}
    with pytest.raises(ConfigError, match="--resume"):
        run_all(tiny(), resume=False)
    run_all(tiny(), resume=True)
    assert results(again) == before
    assert {path: path.stat().st_mtime_ns for path in again.path.rglob("*.safetensors")} == stamps


@pytest.mark.parametrize("moment", ["checkpoints/round-0002", "reconstructions.safetensors", "evaluator-"])
def test_killed_in_any_stage_the_resumed_run_ends_with_the_same_hashes(
    moment: str, whole: Run, tiny: Load, tmp_path: Path
) -> None:
    tiny(name="killed", attacker={"processes": 2})
    command = [
        sys.executable,
        "fedinverse_sim.py",
        str(tmp_path / "tiny.toml"),
        "--out",
        str(tmp_path / "runs"),
        "--resume",
    ]
    killed = tmp_path / "runs" / "killed"
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process: the evaluator's sums depend on it
    process = subprocess.Popen(
        command, cwd=ROOT, env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not any(moment in str(path) for path in killed.rglob("*.safetensors")):
        assert process.poll() is None or (killed / "report.html").exists()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=ROOT, env=one_thread, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert results(Run(killed)) == results(whole)


def test_an_altered_capture_is_refused_by_name(again: Run, tiny: Load) -> None:
    capture = again.files.attacker.spool("with_victim") / "round-0003.safetensors"
    raw = bytearray(capture.read_bytes())
    raw[-1] ^= 1
    capture.write_bytes(raw)
    for inversion in inversions_of(again).values():
        (inversion.path / "about.json").unlink()
    with pytest.raises(StageError, match=r"round-0003\.safetensors.*altered"):
        run_all(tiny(), resume=True)


def test_the_control_targets_are_the_untrained_model_and_the_world_without_the_victim(
    tiny: Load, tmp_path: Path
) -> None:
    from fedinverse.run import prepare
    from pipeline.experiment import resolved

    run = prepare(tmp_path / "run", resolved(tiny()))
    atomic_write(run.files.server.checkpoint("with_victim", 0), "a model")
    assert [path.name for path in control_targets(run, [2, 3])] == [
        "round-0000.safetensors",
        "own-shard.safetensors",
    ]
    for server_round in (2, 3):
        atomic_write(run.files.server.checkpoint("without_victim", server_round), "a model")
    assert [path.name for path in control_targets(run, [2, 3])] == [
        "round-0000.safetensors",
        "own-shard.safetensors",
        "round-0002.safetensors",
        "round-0003.safetensors",
    ]
    assert "without_victim" in str(control_targets(run, [3])[2])


def test_a_run_without_attacks_reports_its_utility(tiny: Load) -> None:
    page = run_all(tiny(attacks=None, population={"malicious": 0}), resume=False)
    html = page.read_text()
    assert "No attack was run" in html
    assert "round 3" in html
