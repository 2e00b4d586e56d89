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
from markupsafe import escape
from torch import get_num_threads

from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.targets import Targets, weights_of
from auditor.verdict import read_verdict
from clients.training import train
from fedinverse.client_data import shard_of
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.layout import RECONSTRUCTIONS
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.shard import Shard
from fedinverse.storage import read_metadata
from pipeline.stages.all_stages import run_all
from pipeline.stages.controls import controls, own_shard_model
from pipeline.stages.inversions import finished

ROOT = Path(__file__).parent.parent
Load = Callable[..., Any]
CONTROL_WORLDS = {"without_victim", "without_victim-1"}


def results(run: Run) -> dict[str, str]:
    """Return a hash of everything that must not depend on when or where a run was stopped."""
    sums = {"rounds": str([line.sha256 for line in run.recorded_rounds("with_victim")])}
    for each in finished(run):
        content = (each.inversion.path / RECONSTRUCTIONS).read_bytes()
        sums[f"{each.attack} {each.target.arm} {each.target.round}"] = hashlib.sha256(content).hexdigest()
    sums["scores"] = hashlib.sha256((run.files.auditor.root / "scores.csv").read_bytes()).hexdigest()
    return sums


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
    page = run_all(tiny(audit={"without_victim": True, "control_worlds": 2}, attacker={"processes": 2}), resume=False)
    run = Run(page.parent)
    scores = pd.read_csv(run.files.auditor.root / "scores.csv")
    assert set(scores["arm"]) == {"A", "B0", "B1", "B2", "B3", "B4", "B4W", "B5", "T1", "CEIL"}
    judged_in = scores[scores["arm"].isin(["B2", "B4W"])].groupby("arm")["world"].unique()
    assert {arm: set(worlds) for arm, worlds in judged_in.items()} == dict.fromkeys(["B2", "B4W"], CONTROL_WORLDS)
    first, other = ([line.sha256 for line in run.recorded_rounds(world)] for world in sorted(CONTROL_WORLDS))
    assert not set(first) & set(other)  # drawn anew from the initial weights on
    assert first[0] == run.recorded_rounds("with_victim")[0].sha256
    assert set(scores.loc[scores["arm"] == "A", "label"]) == {WHOLE_SET, 0, 1}
    shares = [name for name in METRICS.registered() if METRICS.get(name).share]
    assert scores.loc[scores["metric"].isin(shares), "value"].between(0, 1).all()
    verdict = read_verdict(run.files.verdict)
    assert verdict.outcome == "inconclusive"  # three attack steps find nothing, two classes allow no "no"
    html = page.read_text()
    assert "data:image/png;base64," in html
    assert not re.findall(r"""(?:src|href)=["']https?:""", html)  # nothing is fetched
    assert str(escape(verdict.sentence)) in html


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
    for inversion in (each.inversion for each in finished(again)):
        (inversion.path / "about.json").unlink()
    with pytest.raises(StageError, match=r"round-0003\.safetensors.*altered"):
        run_all(tiny(), resume=True)


def test_every_arm_is_written_down_and_read_and_nobody_guesses_it_from_a_path(
    attacked_run: Run, tmp_path: Path
) -> None:
    # Fails if a target is missed, counted to another arm or world, or if reading what was inverted makes anything.
    targets = Targets.read(attacked_run)
    named = [(each.arm, each.world, each.round) for each in targets.models]
    alone = [("B3", "with_victim", 3), ("T1", "with_victim", 3)]
    captured = [("A", "with_victim", 2), ("A", "with_victim", 3), ("B1", "with_victim", 0)]
    assert named == [*captured, ("B2", "without_victim", 2), ("B2", "without_victim", 3), *alone]
    assert targets.left_out == ()
    for each in targets.models:
        assert read_metadata(weights_of(attacked_run, each))["sha256"] == each.sha256
    elsewhere = Run(Path(shutil.copytree(attacked_run.path, tmp_path / "elsewhere")))
    for gone in (elsewhere.files.pools, elsewhere.files.split):  # nothing to train with, no pool to open
        gone.unlink()
    read = [(each.attack, each.target.arm, each.target.round) for each in finished(elsewhere)]
    attacked = [(attack, arm, number) for arm, _, number in named[:-1] for attack in ("gmi", "second")]
    assert read == [*attacked, ("", "T1", 3)]
    written = elsewhere.files.auditor.targets
    written.write_text(written.read_text().replace('"B1"', '"X1"'))
    with pytest.raises(IntegrityError, match=r"targets.json.*the arm X1"):
        finished(elsewhere)
    written.unlink()
    with pytest.raises(StageError, match=r"older version.*fedinverse invert"):
        finished(elsewhere)


def test_the_own_shard_model_belongs_to_its_configuration_and_to_no_machine(
    whole: Run, again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails if it is reused because it exists: after a change of what it was trained with, or of the shard.
    shard = shard_of(again, again.population.attackers[0], "with_victim")
    before = own_shard_model(again, shard)
    assert isinstance(before, Path)
    assert before.name == Path(Targets.read(whole).of("B3")[0].weights).name
    settings = again.files.config
    settings.write_text(settings.read_text().replace('"lr": 0.05', '"lr": 0.04'))
    counts = []
    monkeypatch.setattr(
        "pipeline.stages.controls.train", lambda *given: counts.append(get_num_threads()) or train(*given)
    )
    with threads(2):  # what a machine of two cores has; another sum, were it used
        other = own_shard_model(Run(again.path), shard)
    assert set(counts) == {1}
    assert isinstance(other, Path)
    assert read_metadata(other)["sha256"] != read_metadata(before)["sha256"]


@pytest.mark.parametrize("images", [0, 1])
def test_a_shard_that_nobody_can_train_on_leaves_the_arm_out_with_a_reason(
    images: int, again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One image and BatchNorm used to end a finished federation with a traceback.
    shard = shard_of(again, again.population.attackers[0], "with_victim")
    few = Shard(shard.images[:images], shard.labels[:images])
    monkeypatch.setattr("pipeline.stages.controls.pooled_shard", lambda *_: few)
    (left_out,) = [each for each in controls(again).left_out if each.arm == "B3"]
    assert f"{images} images" in left_out.reason
    assert not Targets.read(again).of("B3")


def test_a_run_without_attacks_reports_its_utility(tiny: Load) -> None:
    page = run_all(tiny(attacks=None, population={"malicious": 0}), resume=False)
    html = page.read_text()
    assert "No attack was run" in html
    assert "round 3" in html
