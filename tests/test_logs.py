"""The log beside the console: one JSON object per event, rotated, with what went wrong and where."""

import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from fedinverse.errors import ConfigError, StageError
from fedinverse.run import Run
from pipeline import log
from pipeline.stages.all_stages import run_all

Load = Callable[..., Any]
HONEST: dict[str, Any] = {"attacks": None, "population": {"malicious": 0}, "federation": {"rounds": 2}}


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / log.FILE).read_text().splitlines()]


def test_a_run_logs_its_stages_and_every_round(tiny: Load) -> None:
    run = Run(run_all(tiny(**HONEST), resume=False).parent)
    logged = lines_of(run.path)
    assert [(line["event"], line["stage"]) for line in logged if line["event"].startswith("stage")] == [
        ("stage start", "federate"),
        ("stage end", "federate"),
        ("stage start", "report"),
        ("stage end", "report"),
    ]
    rounds = [line for line in logged if line["event"] == "round"]
    recorded = run.recorded_rounds("with_victim")
    assert [(line["round"], line["accuracy"]) for line in rounds] == [(line.round, line.accuracy) for line in recorded]
    assert all(line["time"].endswith("+00:00") and line["level"] for line in logged)


def test_a_refused_update_is_an_event_with_its_client(
    tiny: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import clients.app as client_app

    to_weights = client_app.to_weights

    calls = iter(range(100))

    def poisoned(network: Any) -> Any:
        weights = to_weights(network)
        first = next(iter(weights))
        return weights | ({first: np.full_like(weights[first], np.nan)} if next(calls) == 0 else {})

    monkeypatch.setattr(client_app, "to_weights", poisoned)
    page = run_all(tiny(**HONEST), resume=False)
    (refused,) = [line for line in lines_of(page.parent) if line["event"] == "refused update"]
    assert refused["client"] in {0, 1, 2, 3}
    assert "was refused" in " ".join(capsys.readouterr().out.split())


def test_an_error_names_its_kind_and_its_field(tmp_path: Path) -> None:
    with (
        pytest.raises(StageError),
        log.logging_to(tmp_path, {"federation.timeout": 1.0, "training.lr": 0.1}),
    ):
        raise StageError("2 of 4 nodes answered; raise federation.timeout")
    (line,) = lines_of(tmp_path)
    assert (line["event"], line["kind"], line["field"]) == ("error", "StageError", "federation.timeout")
    assert "traceback" not in line


def test_an_unknown_error_is_kept_with_its_traceback_and_a_stop_is_not_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), log.logging_to(tmp_path, {}):
        print(1 // 0)
    with pytest.raises(KeyboardInterrupt), log.logging_to(tmp_path, {}):
        raise KeyboardInterrupt
    crash, stop = lines_of(tmp_path)
    assert "ZeroDivisionError" in crash["traceback"]
    assert (stop["event"], stop["level"]) == ("stopped", "info")


def test_the_log_is_rotated_at_its_limit_and_loses_no_line_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LIMIT", 4000)
    with log.logging_to(tmp_path, {}):
        for number in range(60):
            log.event("round", f"round {number}", round=number)
    files = sorted(tmp_path.glob("log.jsonl*"))
    assert 2 <= len(files) <= 1 + log.KEPT
    assert all(path.stat().st_size <= 4000 for path in files)
    numbers = sorted(json.loads(line)["round"] for path in files for line in path.read_text().splitlines())
    assert numbers == list(range(numbers[0], 60))


def test_after_the_run_nothing_is_logged_into_it(tmp_path: Path) -> None:
    handlers = list(logging.getLogger("fedinverse").handlers)
    with log.logging_to(tmp_path, {}):
        log.event("round", "one")
    log.event("round", "two")
    assert len(lines_of(tmp_path)) == 1
    assert logging.getLogger("fedinverse").handlers == handlers


def test_wrong_input_leaves_no_log(tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="victim_classes"):
        run_all(tiny(population={"victim_classes": [0, 12]}), resume=False)
    assert not (tmp_path / "runs").exists()


def test_long_work_says_once_a_minute_that_it_goes_on_where_nobody_sees_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted work says how far it is; what has no parts, or stands still in a long step, says since when."""
    from report import console as module

    printed = io.StringIO()
    monkeypatch.setattr(module, "console", Console(file=printed, width=80))
    monkeypatch.setattr(module._Progress, "EVERY", 0.05)
    monkeypatch.setattr(module._Progress, "LOOK", 0.01)

    def wait_for(line: str) -> None:
        deadline = time.monotonic() + 30
        while f"\n  {line}" not in f"\n{printed.getvalue()}":
            assert time.monotonic() < deadline, printed.getvalue()
            time.sleep(0.01)

    with module.progress_bar() as bar:
        bar.add_task("inverting", total=4, completed=1)
        wait_for("inverting: 1 of 4")
    with module.working("auditing"):
        wait_for("auditing, for 0:00:0")
    before = printed.getvalue()
    time.sleep(0.1)
    assert printed.getvalue() == before  # and is silent when it is over
