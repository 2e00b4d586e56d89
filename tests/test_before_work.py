"""What is known to fail is refused before any work, by key; what may change afterwards changes, and is marked."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from attacker.attacks.registry import make_attack
from attacker.target import PublicSet
from auditor.marks import amended
from fedinverse.errors import ConfigError, DataError
from fedinverse.run import Run, prepare
from pipeline.cli.main import app
from pipeline.experiment import resolved
from pipeline.stages.all_stages import ready, run_all

ROOT = Path(__file__).parent.parent
Load = Callable[..., Any]
GMI = {"kind": "gmi", "iterations": 3, "prior": {"width": 0.1, "steps": 2, "critic_steps": 1, "batch_size": 8}}

IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a round that will not be": ({"attacker": {"rounds": [2, 9]}}, r"attacker\.rounds.*\[9\].*federation\.rounds is 3"),
    "an unknown primary attack": ({"audit": {"primary": {"attack": "vmi"}}}, r"audit\.primary\.attack.*'vmi'.*gmi"),
    "no primary attack of two": ({"attacks": {"gmi": GMI, "two": GMI}}, r"audit\.primary\.attack.*gmi, two"),
    "a primary round not inverted": ({"audit": {"primary": {"round": 2}}}, r"audit\.primary\.round.* is 2"),
    "a class that is not": ({"attacker": {"classes": [0, 12]}}, r"attacker\.classes.*\[12\].*0 to 9"),
    "none of the victim's classes": ({"attacker": {"classes": [7]}}, r"none of the victim's classes"),
    "an unknown generator": (
        {"attacks": {"gmi": {**GMI, "generator": "0123456789abcdef"}}},
        r"attacks\.gmi.*0123456789",
    ),
    "noise of a head that is not": ({"attacks": {"gmi": {**GMI, "noise_draws": 4}}}, r"attacks\.gmi.*noise_draws"),
    "images the evaluator cannot take": (
        {"audit": {"evaluator": {"model": "resnet18"}}},
        r"audit\.evaluator\.model.*takes images",
    ),
    "a vault that the embedding cannot use": (
        {"data": {"private_limit": 300}},
        r"the vault holds 90 images.*split\.vault",
    ),
    "too few to ask whether they were trained on": (
        {"population": {"victim_classes": [0]}, "data": {"private_limit": 340}, "membership": {}},
        r"membership: \d+ members.*at least 20.*membership\.with_vault",
    ),
    "a round of the question that will not be": (
        {"membership": {"rounds": [1, 4]}},
        r"membership\.rounds.*from 0 to 3",
    ),
    "images the model cannot take": ({"model": {"name": "strangers:narrow"}}, r"model\.name"),
}
if not torch.cuda.is_available():
    IMPOSSIBLE["a device that is not here"] = ({"attacker": {"device": "cuda"}}, r"attacker\.device.*cuda")
    IMPOSSIBLE["a GPU for clients"] = ({"engine": {"kind": "ray", "client_gpus": 0.5}}, r"engine\.client_gpus")


@pytest.mark.parametrize("kind", ["ray", "flower"])
@pytest.mark.parametrize("place", ["a deep TMPDIR", "no shared memory", "an early import"])
def test_where_ray_cannot_start_is_said_before_any_work(
    place: str, kind: str, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    message = {
        "a deep TMPDIR": r"paths 1 bytes too long; set RAY_TMPDIR",
        "no shared memory": r"cannot be written here",
        "an early import": r"was imported by this program before",
    }[place]
    if place == "a deep TMPDIR":
        monkeypatch.setenv("TMPDIR", "/" + "d" * 39)
    elif place == "no shared memory":
        monkeypatch.setattr("pipeline.engines.ray_place.SHARED_MEMORY", Path("/proc/sys"))
    else:
        monkeypatch.setitem(sys.modules, "ray", sys)
        monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(ConfigError, match=rf"engine\.kind = '{kind}'.*{message}.*engine\.kind = 'local'"):
        run_all(tiny(engine={"kind": kind}), resume=False)
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_refusal_ends_a_ray_that_has_begun(
    ray_engine: Any, tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny(engine={"kind": "ray", "actors": 1}, audit={"evaluator": {"model": "resnet18"}})
    started = []
    monkeypatch.setattr(
        ray_engine.ray, "init", lambda init=ray_engine.ray.init, **settings: started.append(init(**settings))
    )
    with pytest.raises(ConfigError, match=r"audit\.evaluator"):
        run_all(experiment, resume=False)
    assert len(started) == 1
    assert not ray_engine.ray.is_initialized()
    assert not (tmp_path / "runs" / "tiny").exists()


def test_ray_begins_with_a_fresh_run_and_with_no_other(
    ray_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engines.early import early_session
    from pipeline.engines.ray_session import RaySession

    begun = []
    monkeypatch.setattr(RaySession, "begin", lambda self: begun.append(self.engine.actors))

    def begins(*assignments: str, config: str = "quickstart") -> bool:
        before = len(begun)
        with early_session(config, assignments, tmp_path, profile=False) as session:
            return session is not None and begun[before:] == [session.engine.actors]

    assert begins("engine.actors=3")
    assert not begins("engine.kind=local")
    assert not begins("engine.actors=many")
    assert not begins(config="no such file")
    (tmp_path / "there").mkdir()
    assert not begins("name=there")


def test_without_a_home_directory_one_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # as pathlib does for a user without an entry

    monkeypatch.delenv("FEDINVERSE_CACHE")
    monkeypatch.setattr(Path, "home", homeless)
    result = CliRunner().invoke(app, ["data", "list"])
    assert isinstance(result.exception, ConfigError)
    assert "FEDINVERSE_CACHE=DIR" in str(result.exception)


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_work_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tiny: Load, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=re.compile(message, re.DOTALL)):
        run_all(tiny(**changes), resume=False)
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_dry_run_says_time_and_disk_and_writes_nothing(
    tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))  # in which no prior lies
    experiment = tiny(attacks={"gmi": {"iterations": 30, "prior": {"steps": 30}}})
    out = tmp_path / "runs"
    command = ["run", str(tmp_path / "tiny.toml"), "--out", str(out), "--dry-run"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for part in (
        "Threat model",
        "checkpoints",
        "reconstructions",
        "federation",
        "gmi: training",
        "Nothing was written",
    ):
        assert part in done.output
    assert re.search(r"federation +\d+ (s|min)", done.output)
    assert not out.exists()

    public = PublicSet.of(prepare(tmp_path / "other", resolved(experiment)).pools["public"])
    attack = make_attack(experiment.attacks["gmi"], "attacks.gmi", "config")
    attack.prior(None, public, experiment.seed, torch.device("cpu"))
    assert "gmi: training" not in CliRunner().invoke(app, command).output  # it lies in the cache


def test_a_directory_made_before_a_key_existed_is_gone_on_with(tiny: Load, tmp_path: Path) -> None:
    experiment = tiny(federation={"timeout": 50.0})
    path = tmp_path / "runs" / "tiny"
    run = prepare(path, resolved(experiment))
    run.files.server.rounds("with_victim").parent.mkdir(parents=True)
    run.files.server.rounds("with_victim").touch()  # the federation has begun
    older = {key: value for key, value in run.table.items() if key not in ("canaries", "updates")}
    older["federation"] = {key: value for key, value in older["federation"].items() if key != "max_update_norm"}
    older["attacks"] = {"gmi": {key: value for key, value in older["attacks"]["gmi"].items() if key != "generator"}}
    run.files.config.write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"federation\.max_update_norm"):  # not the default
        ready(tiny(federation={"timeout": 50.0, "max_update_norm": 2.0}), path)
    with pytest.raises(ConfigError, match=r"differs in federation\.timeout\)"):
        ready(tiny(federation={"timeout": 60.0}), path)
    assert json.loads(run.files.config.read_text()) == older
    assert ready(experiment, path).table == resolved(experiment)
    assert not amended(Run(path))


def test_other_attacks_evaluators_and_rounds_reuse_a_finished_federation_and_are_marked(
    tiny: Load, tmp_path: Path
) -> None:
    run = Run(run_all(tiny(), resume=False).parent)
    before = [line.sha256 for line in run.recorded_rounds("with_victim")]
    stamps = {path: path.stat().st_mtime_ns for path in (run.path / "federation").rglob("*.safetensors")}
    assert json.loads(run.files.verdict.read_text())["marks"] == []
    with pytest.raises(ConfigError, match=r"training\.lr.*attacks, attacker, audit"):
        run_all(tiny(training={"lr": 0.1}), resume=True)
    changed = tiny(attacker={"rounds": [2, 3]}, attacks={"gmi": {"iterations": 2}}, audit={"evaluator": {"epochs": 2}})
    run_all(changed, resume=True)
    again = Run(run.path)
    assert [line.sha256 for line in again.recorded_rounds("with_victim")] == before
    assert {path: path.stat().st_mtime_ns for path in (run.path / "federation").rglob("*.safetensors")} == stamps
    verdict = json.loads(again.files.verdict.read_text())
    assert {point["round"] for point in verdict["points"]} == {2, 3}
    assert set(amended(again)) == {"attacker.rounds", "attacks.gmi.iterations", "audit.evaluator.epochs"}
    assert "audit.evaluator.epochs" in verdict["marks"][0]
    assert verdict["marks"][0] in again.files.report.read_text()


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tiny: Load, tmp_path: Path) -> None:
    tiny(federation={"rounds": 3000})  # it must not be done before it is stopped
    command = [sys.executable, "fedinverse_sim.py", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "a [b] c")]
    # Tests may run where interrupts are ignored (in the background of a script), and children inherit that.
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        rounds = tmp_path / "a [b] c" / "tiny" / "federation" / "with_victim" / "rounds.jsonl"
        deadline = time.monotonic() + 120
        while not rounds.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert re.search(r"stopped \(round \d+ of 3000\); all that was finished is kept in", said)
    assert (
        f"go on with: python fedinverse_sim.py {tmp_path / 'tiny.toml'} --out '{tmp_path / 'a [b] c'}' --resume" in said
    )
    assert str(tmp_path / "a [b] c" / "tiny") in out


def test_a_ray_that_does_not_come_up_in_time_is_one_message(ray_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**settings: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")  # as Ray does

    monkeypatch.setattr(ray_engine.ray, "init", late)
    monkeypatch.setattr(ray_engine.ray, "shutdown", lambda: None)
    with pytest.raises(ConfigError, match=r"Ray cannot start here .*timed out during startup.*engine\.kind = 'local'"):
        import_module("pipeline.engines.ray_session")._start(1)  # not before the fixture set the environment
