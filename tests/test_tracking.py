"""Trackers hold what the run directory records, once each, after a resume too; a broken one harms nothing."""

import json
import logging
import struct
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedinverse.errors import ConfigError
from fedinverse.run import Run
from pipeline.stages.all_stages import run_all
from pipeline.tracking import Trackers, Tracking
from pipeline.tracking.trackers import PACKAGES

Load = Callable[..., Any]
Points = dict[tuple[str, int], list[float]]
HONEST: dict[str, Any] = {"attacks": None, "population": {"malicious": 0}, "federation": {"rounds": 2}}
INSTALLED = [name for name, package in PACKAGES.items() if find_spec(package)]


def tensorboard_points(run: Run) -> Points:
    from tensorboardX.proto.event_pb2 import Event

    points: Points = {}
    for path in (run.path / "tracking" / "tensorboard").iterdir():
        for record in _records(path.read_bytes()):
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    points.setdefault((value.tag, event.step), []).append(value.simple_value)
    return points


def _records(raw: bytes) -> Iterator[bytes]:
    """TFRecord: length u64, its CRC, the data, its CRC."""
    start = 0
    while start < len(raw):
        (length,) = struct.unpack_from("<Q", raw, start)
        yield raw[start + 12 : start + 12 + length]
        start += 16 + length


def mlflow_points(run: Run) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.path.parent / 'mlflow.db'}")
    (experiment,) = [client.get_experiment_by_name("fedinverse")]
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["training.lr"] == "0.05"
    points: Points = {}
    for name in logged.data.metrics:
        for point in client.get_metric_history(logged.info.run_id, name):
            points.setdefault((name, point.step), []).append(point.value)
    return points


def wandb_points(run: Run) -> Points:
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    points: Points = {}
    (path,) = (run.path / "tracking" / "wandb").rglob("*.wandb")
    store = DataStore()
    store.open_for_scan(str(path))
    while (raw := store.scan_data()) is not None:
        record = Record.FromString(raw)
        if record.WhichOneof("record_type") == "history":
            line = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in line.items():
                if name != "round" and not name.startswith("_"):
                    points.setdefault((name, line["round"]), []).append(value)
    return points


READERS = {"tensorboard": tensorboard_points, "mlflow": mlflow_points, "wandb": wandb_points}


def test_the_smallest_tracker_is_there_to_be_tested() -> None:
    assert "tensorboard" in INSTALLED


@pytest.mark.parametrize("name", INSTALLED)
def test_a_tracker_has_every_recorded_figure_once_and_after_a_resume_too(name: str, tiny: Load) -> None:
    experiment = tiny(tracking={"to": [name]}, **HONEST)
    run = Run(run_all(experiment, resume=False).parent)
    run_all(experiment, resume=True)
    points = READERS[name](run)
    lines = run.recorded_rounds("with_victim")
    assert len(lines) == 3
    for line in lines:
        for key in ("accuracy", "victim-accuracy", "loss"):
            (value,) = points["with_victim/" + key, line.round]
            assert value == pytest.approx(line.figures[key])
    assert points["seconds/federate", 2]


def test_a_missing_package_is_named_with_its_extra(tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.tracking.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'mlflow'.*not installed.*fedinverse\[mlflow\]"):
        tiny(tracking={"to": ["mlflow"]})


def test_a_tracker_that_fails_is_left_out_and_the_run_ends_well(
    tiny: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "runs" / "tiny"
    blocked.mkdir(parents=True)
    (blocked / "tracking").write_text("a file where a directory should be")
    with caplog.at_level(logging.WARNING):
        page = run_all(tiny(tracking={"to": ["tensorboard"]}, **HONEST), resume=False)
    assert page.exists()
    assert "tracking to tensorboard ended" in caplog.text
    logged = [json.loads(line) for line in (blocked / "log.jsonl").read_text().splitlines()]
    assert [line["logger"] for line in logged if line["level"] == "warning"] == ["fedinverse.tracking"]


def test_tracking_is_no_part_of_the_configuration_a_run_is_held_to(tiny: Load) -> None:
    page = run_all(tiny(**HONEST), resume=False)
    run_all(tiny(tracking={"to": ["tensorboard"]}, **HONEST), resume=True)
    points = tensorboard_points(Run(page.parent))  # filled from what was recorded before it was asked for
    assert {step for name, step in points if name == "with_victim/accuracy"} == {0, 1, 2}


def test_no_tracker_opens_nothing(tiny: Load, tmp_path: Path) -> None:
    from fedinverse.run import prepare
    from pipeline.experiment import resolved

    run = prepare(tmp_path / "run", resolved(tiny(**HONEST)))
    trackers = Trackers(run, Tracking())
    trackers.scalars(1, {"a": 1.0})
    trackers.close({})
    assert not (run.path / "tracking").exists()
