"""Old runs: listed, shown, and freed of what nothing needs any more."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run_in
from typer.testing import CliRunner

from attacker.priors.prior import prior_path
from fedinverse.disk import in_words, used
from fedinverse.errors import FedInverseError, StageError
from fedinverse.records import RoundLine, append_lines
from fedinverse.run import Run
from fedinverse.storage import atomic_write, write_json
from pipeline.cli.main import app
from pipeline.prune import removable
from pipeline.runs import find_runs, stage_of
from pipeline.stages.outcome import audit_and_gather
from pipeline.stages.report import report
from report.console import console


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one finished tiny run; tests that alter it copy it."""
    return Path(run_in(tmp_path_factory.mktemp("finished"), federation={"rounds": 4}).path)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / "copy"))


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "width", 200)


def command(*arguments: object) -> str:
    """Run a command; return what it printed, raise what it raised."""
    with console.capture() as captured:
        result = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    if isinstance(result.exception, FedInverseError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def test_list_shows_every_run_below_with_its_stage(copy: Path) -> None:
    deep = copy.parent / "sweep" / "bido-seed1"
    write_json(deep / "config.json", {"seed": 1, "federation": {"rounds": 9}})
    lines = command("list", copy.parent).splitlines()
    assert lines[0].startswith("2 runs")
    assert [part in lines[2] for part in ("copy", "reported", "inconclusive", in_words(used(copy)))] == [True] * 4
    assert [part in lines[3] for part in ("sweep/bido-seed1", "started", "–", " B")] == [True] * 4
    with pytest.raises(StageError, match="holds no run"):
        command("list", copy.parent / "nothing")


def line_of(number: int) -> RoundLine:
    return RoundLine(number, 0.5, 1.0, None, (0.5,), "0" * 64)


def test_the_stage_is_told_by_what_is_there(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert stage_of(tmp_path) == "not started"
    write_json(tmp_path / "config.json", {"seed": 0, "federation": {"rounds": 9}})
    assert stage_of(tmp_path) == "started"
    write_json(tmp_path / "pools.json", {})
    assert stage_of(tmp_path) == "prepared"
    append_lines(run.files.server.rounds("with_victim"), [line_of(0), line_of(1)])
    assert stage_of(tmp_path) == "round 1 of 9"
    append_lines(run.files.server.rounds("without_victim"), [line_of(5)])
    assert stage_of(tmp_path) == "round 5 of 9 without the victim"
    write_json(run.files.attacker.inversions / "gmi" / "x" / "about.json", {})
    assert stage_of(tmp_path) == "1 inverted"
    write_json(tmp_path / "verdict.json", {"outcome": "leak"})
    assert stage_of(tmp_path) == "audited"
    atomic_write(tmp_path / "report.html", "")
    assert stage_of(tmp_path) == "reported"


def test_show_tells_who_holds_what_the_times_and_the_largest_files(finished: Path) -> None:
    output = command("show", finished)
    for part in ("Victim", "federate", "inconclusive", "evaluator-", "the largest"):
        assert part in output
    with pytest.raises(StageError, match="not a run directory"):
        command("show", finished.parent)


def test_a_run_audited_before_says_so_and_is_audited_anew(copy: Path) -> None:
    earlier = (Path(__file__).parent / "corpus" / "verdict-1.json").read_text()
    atomic_write(copy / "verdict.json", earlier.replace('"round": 10', '"round": 4'))
    write_json(copy / "audit" / "summary.json", {"inputs": "those of earlier rules", "ceiling": 1.0})
    assert "leak (by the rules of version 1: audit it again)" in command("list", copy)
    report(Run(copy))
    assert "Leak: gmi at round 10" in (copy / "report.html").read_text()
    audit_and_gather(Run(copy))
    assert "by the rules of version 1" not in command("list", copy)


def test_prune_only_lists_until_told_to_delete(copy: Path) -> None:
    before = sorted(copy.rglob("*"))
    output = command("prune", copy)
    assert "Would be removed" in output
    assert "--delete" in output
    assert sorted(copy.rglob("*")) == before


def test_a_pruned_run_can_be_reported_audited_and_resumed(copy: Path) -> None:
    run = Run(copy)
    kept = {path: path.read_bytes() for path in (copy / "verdict.json", run.files.auditor.scores)}
    command("prune", copy, "--delete")
    names = [path.name for path in sorted(run.files.server.checkpoint("with_victim", 0).parent.iterdir())]
    assert names == ["round-0000.safetensors", "round-0004.safetensors"]
    assert [path.name for path in sorted(run.files.attacker.spool("with_victim").glob("*.safetensors"))] == [
        "round-0004.safetensors"
    ]
    assert removable(Run(copy)) == []
    assert {path: path.read_bytes() for path in kept} == kept
    (run.files.auditor.summary).unlink()  # so that the audit is made again
    audit_and_gather(Run(copy))
    report(Run(copy))
    assert {path: path.read_bytes() for path in kept} == kept
    assert run.files.server.ledger("with_victim").exists()


@pytest.mark.parametrize(("option", "kinds"), [("checkpoints", {"captures"}), ("captures", {"checkpoints"})])
def test_what_is_to_be_kept_is_kept(option: str, kinds: set[str], finished: Path) -> None:
    assert {each.kind for each in removable(Run(finished))} == {"checkpoints", "captures"}
    assert {each.kind for each in removable(Run(finished), [option])} == kinds


def test_a_prior_goes_only_if_it_was_trained_for_this_run_alone(copy: Path, tiny: Callable[..., Any]) -> None:
    run = Run(copy)
    attacks = tiny(attacks={"own": {"kind": "kedmi"}}, audit={"primary": {"attack": "gmi"}}).attacks
    write_json(copy / "config.json", run.table | {"attacks": attacks})
    for label, key in (("gmi", "a" * 64), ("own", "b" * 64), ("own", "c" * 64)):
        write_json(run.files.attacker.inversions / label / key / "about.json", {"prior": key})
        atomic_write(prior_path("x", key), "prior")
    other = copy.parent / "other"
    write_json(other / "config.json", {"seed": 1})
    write_json(Run(other).files.attacker.inversions / "own" / "x" / "about.json", {"prior": "c" * 64})
    removed = [each.path for each in removable(Run(copy), ["checkpoints", "captures"])]
    assert removed == [prior_path("x", "b" * 64)]


def test_an_unfinished_run_is_not_pruned(copy: Path) -> None:
    (copy / "report.html").unlink()
    with pytest.raises(StageError, match="is not finished"):
        command("prune", copy)
    assert [run.path for run in find_runs(copy.parent)] == [copy]
