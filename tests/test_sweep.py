"""Sweeps: points are named, checked before the first one runs, run on their own, stopped, resumed and compared."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from conftest import ATTACKED, TINY, merged
from filelock import FileLock
from typer.testing import CliRunner

from fedinverse.errors import ConfigError, FedInverseError, StageError
from fedinverse.run import Run, prepare
from fedinverse.storage import atomic_write, read_json, write_json
from fedinverse.tables import with_value
from pipeline.cli.main import app
from pipeline.experiment import load_experiment, resolved
from pipeline.runs import stage_of
from pipeline.sweep import Outcome, Plan, load_plan, point, run_points, runner
from pipeline.sweep.reuse import adopt_federations, adopt_inversions
from pipeline.sweep.runner import _write_index
from report.comparison.records import Rank
from report.console import console

ROOT = Path(__file__).parent.parent
BIDO = {"cohorts": [{"defence": "bido_hsic", "fraction": 1.0}]}


def write(directory: Path, sweep: dict[str, Any] | None, **changes: Any) -> str:
    """Write the tiny experiment with a table [sweep]; return its path."""
    path = directory / "many.toml"
    path.write_text(tomli_w.dumps(merged(TINY, changes | ({} if sweep is None else {"sweep": sweep}))))
    return str(path)


def plan_of(directory: Path, sweep: dict[str, Any], **changes: Any) -> Plan:
    return load_plan(write(directory, sweep, **changes), out=directory / "runs")


def names(plan: Plan) -> list[str]:
    return [each.experiment.name for each in plan.points]


def command(*arguments: object) -> str:
    """Run a command in this process; return what it printed, raise what it raised."""
    with console.capture() as captured:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(result.exception, FedInverseError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def test_points_are_every_variant_with_every_combination_and_seed(tmp_path: Path) -> None:
    sweep = {
        "seeds": [3, 5],
        "grid": {"federation.strategy": ["fedavg", "fedavgm"], "model": {"width": [0.1, 0.2]}},
        "variants": {"none": {}, "bido": BIDO},
    }
    plan = plan_of(tmp_path, sweep)
    assert len(set(names(plan))) == 16
    assert names(plan)[0] == "none-strategy-fedavg-width-0.1-seed3"
    assert names(plan)[-1] == "bido-strategy-fedavgm-width-0.2-seed5"
    assert plan.baseline == "none-strategy-fedavg-width-0.1"
    last = plan.points[-1]
    assert last.path == (tmp_path / "runs" / "tiny" / last.experiment.name).resolve()
    experiment = last.experiment
    assert (experiment.seed, experiment.model.width, experiment.federation.strategy) == (5, 0.2, "fedavgm")
    assert experiment.cohorts[0].defence == "bido_hsic"
    assert not plan.points[0].experiment.cohorts


def test_variants_may_be_an_array_and_seeds_default_to_the_files(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"variants": [{"name": "a"}, {"name": "b", "training": {"lr": 0.1}}]}, seed=7)
    assert names(plan) == ["a-seed7", "b-seed7"]
    assert [each.experiment.training.lr for each in plan.points] == [0.05, 0.1]
    assert [each.experiment.training.batch_size for each in plan.points] == [16, 16]
    assert names(plan_of(tmp_path, {"seeds": [0, 1]})) == ["seed0", "seed1"]


def test_a_grid_over_tables_and_into_lists(tmp_path: Path) -> None:
    tables = plan_of(tmp_path, {"grid": {"cohorts": [[], BIDO["cohorts"]]}})
    assert names(tables) == ["cohorts-0-seed0", "cohorts-1-seed0"]
    inside = plan_of(tmp_path, {"grid": {"cohorts.0.fraction": [0.5, 1.0]}}, **BIDO)
    assert [each.experiment.cohorts[0].fraction for each in inside.points] == [0.5, 1.0]
    with pytest.raises(ConfigError, match=r"here: there is no '7'"):
        with_value([1, 2], ["7"], 3, "here")


SMOOTHING = {
    "tables": {"cohorts": [{"defence": "neg_label_smoothing", "fraction": 1.0}]},
    "keys": ["cohorts.0.settings.alpha"],
    "values": [[-0.01], [-0.2]],
}


def test_strengths_of_a_defence_are_points_that_know_their_rank(tmp_path: Path) -> None:
    bido = {
        "tables": {"model": {"name": "mcnn_gn"}, **BIDO},
        "keys": ["cohorts.0.settings.lambda_x", "cohorts.0.settings.lambda_y"],
        "values": [[0.1, 1.0], [2.0, 20.0]],
        "undefended": "gn",
    }
    variants = {"none": {}, "gn": {"model": {"name": "mcnn_gn"}}}
    sweep = {"variants": variants, "strengths": {"bido": bido, "smoothing": SMOOTHING}, "baseline": "none"}
    plan = plan_of(tmp_path, sweep)
    labels = ["none", "gn", "bido-0.1-1.0", "bido-2.0-20.0", "smoothing--0.01", "smoothing--0.2"]
    assert [each.label for each in plan.points] == labels
    assert [each.rank for each in plan.points] == [
        None,
        None,
        Rank("bido", 0, "gn"),
        Rank("bido", 1, "gn"),
        Rank("smoothing", 0, "none"),
        Rank("smoothing", 1, "none"),
    ]
    strong = plan.points[3].experiment
    assert (strong.model.name, strong.cohorts[0].settings) == ("mcnn_gn", {"lambda_x": 2.0, "lambda_y": 20.0})
    assert plan.points[0].experiment.model.name == "mcnn"


def test_the_index_keeps_the_rank_and_the_configured_search_holds_every_defence(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"variants": {"none": {}}, "strengths": {"smoothing": SMOOTHING}, "baseline": "none"})
    _write_index(plan, [Outcome(each) for each in plan.points])
    ranks = [each["rank"] for each in read_json(plan.path / "sweep.json")["points"]]
    assert ranks[0] is None
    assert Rank(**ranks[2]) == plan.points[2].rank
    configured = load_plan("defences/matched", ["sweep.seeds=[0]"], tmp_path)
    found = {each.experiment.cohorts[0].defence for each in configured.points if each.experiment.cohorts}
    wanted = {"bido_hsic", "bido_coco", "mid", "neg_label_smoothing", "tl", "dp_sgd", "update_pruning"}
    assert found == wanted
    assert any(each.experiment.federation.privacy.kind != "none" for each in configured.points)


def test_the_problems_of_all_points_come_in_one_message_and_nothing_is_written(tmp_path: Path) -> None:
    sweep = {"seeds": [0, 1], "variants": {"a": {"model": {"nam": "x"}}, "b": {}, "c": {"training": {"lr": -1.0}}}}
    path = write(tmp_path, sweep)
    with pytest.raises(ConfigError) as raised:
        command("sweep", path, "--out", tmp_path / "runs")
    lines = str(raised.value).splitlines()
    assert len(lines) == 2
    assert "point 'a'" in lines[0]
    assert "did you mean 'name'" in lines[0]
    assert "point 'c'" in lines[1]
    assert "training.lr" in lines[1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sweep", "complaint"),
    [
        ({"grid": {"seed": [1, 2]}}, r"cannot vary 'seed': list the seeds in sweep\.seeds"),
        ({"variants": {"a": {"name": "x"}}}, "cannot vary 'name'"),
        ({"grid": {"training.lr": 0.1}}, r"'sweep\.grid\.training\.lr' must be a list"),
        ({"grid": {"training": {"lr": []}}}, r"'sweep\.grid\.training\.lr' must be a list"),
        ({"grid": {"training.lr": [0.1, 0.1]}}, "two points of the sweep are called 'lr-0.1'"),
        ({"grid": {"name.x": [1]}}, "cannot vary 'name.x'"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, r"'sweep\.variants\.0' needs a 'name' of its own"),
        ({"seed": [1]}, "unknown key 'sweep.seed'; did you mean 'seeds'"),
        ({"baseline": "x", "variants": {"a": {}, "b": {}}}, "'sweep.baseline' is 'x'; the points are a, b"),
        ({"grid": {"training.lr.x": [1]}}, "there is no 'x' to set"),
        ({"strengths": {"s": SMOOTHING}}, r"held against '', which is no variant; name one of \[sweep\.variants\]"),
        ({"strengths": {"s": SMOOTHING}, "variants": {"a": {}}, "grid": {"training.lr": [1.0]}}, "exclude each other"),
        (
            {"strengths": {"s": {**SMOOTHING, "values": [[1, 2]]}}, "variants": {"a": {}}, "baseline": "a"},
            "one per key of 'keys'",
        ),
        (
            {"strengths": {"s": {**SMOOTHING, "keys": ["cohorts.3.x"]}}, "variants": {"a": {}}, "baseline": "a"},
            "there is no '3' to set",
        ),
        (
            {"strengths": {"s": SMOOTHING}, "variants": {"s--0.2": {}}, "baseline": "s--0.2"},
            r"two points of the sweep are called 's--0\.2'",
        ),
        (None, r"has no table \[sweep\]"),
    ],
)
def test_a_wrong_sweep_is_one_clear_message(sweep: dict[str, Any] | None, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_plan(write(tmp_path, sweep))


def test_a_sweeps_file_is_not_taken_for_one_experiment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedinverse sweep"):
        load_experiment(write(tmp_path, {"seeds": [1]}), [])


def test_a_dry_run_lists_the_points_and_writes_nothing(tmp_path: Path) -> None:
    output = command("sweep", write(tmp_path, {"seeds": [0, 1]}), "--out", tmp_path / "runs", "--dry-run")
    assert "seed0" in output
    assert "not started" in output
    assert not (tmp_path / "runs").exists()


def test_cores_are_divided_and_a_started_point_keeps_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    free, fixed = plan_of(tmp_path, {"grid": {"attacker.processes": [0, 3]}}, engine={"kind": "ray"}).points
    assert runner.share_of(free, 2) == {"engine": {"actors": 4}, "attacker": {"processes": 4}}
    assert runner.share_of(free, 1) == {}
    assert runner.share_of(fixed, 4) == {"engine": {"actors": 2}}
    free.path.mkdir(parents=True)
    (free.path / "config.json").write_text('{"attacker": {"processes": 4}}')
    assert runner.share_of(free, 8) == {"engine": {"actors": 1}, "attacker": {"processes": 4}}


def test_run_directories_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"seeds": [0]})
    stranger = plan.points[0].path / "config.json"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("{}")
    with pytest.raises(ConfigError, match="--resume"):
        runner.check_directory(plan, resume=False)
    with pytest.raises(ConfigError, match="other configurations under seed0"):
        runner.check_directory(plan, resume=True)


def test_a_sweep_that_names_its_classes_is_gone_on_with(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"seeds": [0]}, population={"victim_classes": ["0-1"]})
    point = plan.points[0]
    prepare(point.path, resolved(point.experiment))
    runner.check_directory(plan, resume=True)
    other = plan_of(tmp_path, {"seeds": [0]}, population={"victim_classes": ["1-2"]})
    with pytest.raises(ConfigError, match="other configurations under seed0"):
        runner.check_directory(other, resume=True)


def test_a_point_that_outlived_its_sweep_is_not_run_twice(tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    with FileLock(config.with_suffix(".lock")), pytest.raises(StageError, match="another process is still running"):
        point.main(str(config))


def test_the_attack_on_the_untrained_model_is_made_once_per_seed(tmp_path: Path) -> None:
    sweep = {
        "seeds": [0, 1],
        "grid": {"training.lr": [0.1, 0.2]},
        "variants": {"a": {}, "b": {"model": {"width": 0.2}}},
    }
    plan = plan_of(tmp_path, sweep)
    first, others = plan.points[0], plan.points[1:]
    for name, server_round in (("untrained", 0), ("trained", 3)):
        about = dict.fromkeys(("attack", "target-sha256", "public", "prior"), "") | {"model-round": server_round}
        about |= dict.fromkeys(("seed", "prior-seconds", "failed"), 0) | dict.fromkeys(("captures", "notes"), ())
        about |= {"shared-classes": (), "settings": {}, "diversity": {}, "cost": {}, "samples": "samples.safetensors"}
        atomic_write(Run(first.path).files.attacker.inversions / "gmi" / "samples.safetensors", "samples of its prior")
        write_json(Run(first.path).files.attacker.inversions / "gmi" / name / "about.json", about)
    assert [adopt_inversions(each, [first]) for each in others] == [1, 0, 0, 0, 0, 0, 0]
    adopted = sorted(path.name for path in Run(others[0].path).files.attacker.inversions.glob("*/*"))
    assert adopted == ["samples.safetensors", "untrained"]
    assert adopt_inversions(others[0], [first]) == 0  # again: it is there


@pytest.fixture
def other_sweep(attacked_run: Run, tmp_path: Path) -> Path:
    """Return a directory in which the finished run is the point ``seed0`` of a sweep."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "seed0").symlink_to(attacked_run.path)
    return tmp_path / "other"


def test_another_attack_takes_over_a_finished_sweeps_federations(
    attacked_run: Run, other_sweep: Path, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, {}, **merged(ATTACKED, {"attacks": {"second": None, "gmi": {"iterations": 4}}}))
    assert adopt_federations(plan.points, other_sweep) == 1
    runner.check_directory(plan, resume=True)  # it is this sweep's point now
    run = Run(plan.points[0].path)
    assert run.table["attacks"]["gmi"]["iterations"] == 4
    assert stage_of(run.path).endswith("inverted")  # nothing that was concluded came with it
    assert not runner.is_finished(plan.points[0])
    for world in attacked_run.worlds:
        assert run.recorded_rounds(world) == attacked_run.recorded_rounds(world)
    amendment = run.files.amendments.read_text()
    assert "attacks.gmi.iterations" in amendment
    assert '"name"' not in amendment
    assert adopt_federations(plan.points, tmp_path / "gone") == 0  # a point that is there is left alone


def test_another_federation_is_not_taken_over(other_sweep: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {}, **ATTACKED, training={"lr": 0.2})
    with pytest.raises(ConfigError, match=r"another federation \(differs in training.lr\)"):
        adopt_federations(plan.points, other_sweep)
    with pytest.raises(ConfigError, match="holds no run of these points"):
        adopt_federations(plan.points, tmp_path)
    assert not plan.path.exists()


def test_an_unfinished_federation_is_not_taken_over(other_sweep: Path, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {}, **merged(ATTACKED, {"audit": {"control_worlds": 2}}))
    with pytest.raises(ConfigError, match=r"not finished its federation \(without_victim-1\)"):
        adopt_federations(plan.points, other_sweep)


def test_stopped_resumed_one_point_failing_and_the_other_compared(tmp_path: Path) -> None:
    """A whole sweep: stopped in its first point, continued; the bad point costs neither the good one nor the table."""
    sweep = {"variants": {"good": {}, "bad": {"data": {"private_root": str(tmp_path / "nowhere")}}}}
    path = write(tmp_path, sweep)
    code = "from pipeline.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sweep", path, "--out", str(tmp_path / "runs")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    good = tmp_path / "runs" / "tiny" / "good-seed0"
    deadline = time.monotonic() + 240
    while not (good / "federation" / "with_victim" / "checkpoints" / "round-0001.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    with FileLock(good.parent / "points" / "good-seed0.lock", timeout=0):  # nobody runs it any more
        assert stage_of(good) != "reported"

    plan = load_plan(path, out=tmp_path / "runs")
    runner.check_directory(plan, resume=True)
    outcomes = run_points(plan, jobs=2)
    assert [bool(each.reason) for each in outcomes] == [False, True]
    assert "nowhere" in outcomes[1].reason
    index = read_json(good.parent / "sweep.json")
    assert [each["state"] for each in index["points"]] == ["finished", "failed"]
    assert "Report" in (good.parent / "logs" / "good-seed0.log").read_text()
    before = (good / "report.html").stat().st_mtime_ns

    again = Plan(plan.path, plan.points[:1], plan.baseline)
    assert run_points(again, jobs=1) == [Outcome(plan.points[0])]
    assert (good / "report.html").stat().st_mtime_ns == before
    command("compare", good.parent)
    table = pd.read_parquet(good.parent / "compare.parquet")
    assert set(table["group"]) == {"good"}
    assert table.loc[table["quantity"] == "leakage", "omitted"].str.contains("B2").all()
