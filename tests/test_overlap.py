"""A public set that shows a class to invert is refused, or every output says so; what an inversion says of itself."""

import html
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from attack_bench import TINY, attack, public, target
from PIL import Image
from typer.testing import CliRunner

from attacker.inversion import Inversion, invert
from attacker.target import PublicSet
from auditor.marks import OVERLAP
from fedinverse.errors import ConfigError
from fedinverse.models import build
from fedinverse.run import Run, prepare
from fedinverse.storage import read_json, save_weights, to_weights
from pipeline.cli.main import app
from pipeline.cli.pictures import save_sheet
from pipeline.cli.weights import shared_classes
from pipeline.compare import compare_runs
from pipeline.experiment import resolved
from pipeline.runs import verdict_of
from pipeline.stages.all_stages import run_all
from pipeline.stages.inversions import finished
from pipeline.stages.invert import plan_of

LABELS = torch.tensor([0, 0, 3, 3])


def run_at(tiny: Any, source: str) -> Run:
    """Return a run whose attacker captured one model."""
    data = {"private_limit": 400, "public_limit": 200, "public": source, "allow_overlap": True}
    experiment = tiny(data=data)
    run = prepare(Path(experiment.out) / "tiny", resolved(experiment))
    about: dict[str, str | int | float] = {"model-round": 1, "model": "mcnn", "width": 0.1, "classes": 10}
    save_weights(
        run.files.attacker.spool("with_victim") / "round-0001.safetensors",
        to_weights(build("mcnn", 10, 0.1, seed=0)),
        about,
    )
    return run


def test_a_run_that_allows_overlap_names_the_classes(tiny: Any) -> None:
    assert plan_of(run_at(tiny, "mnist")).shared_classes == ("0", "1")


def test_a_run_without_overlap_has_nothing_to_name(tiny: Any) -> None:
    assert plan_of(run_at(tiny, "glyphs")).shared_classes == ()


def test_the_command_refuses_overlap_or_marks_it(tiny: Any, tmp_path: Path) -> None:
    run = run_at(tiny, "mnist")
    overlapping = PublicSet(public().images, "digits", ("3", "7"))
    with pytest.raises(ConfigError, match="classes 3 that are to be inverted"):
        shared_classes(run.path, LABELS, overlapping, allow=False)
    assert shared_classes(run.path, LABELS, overlapping, allow=True) == ("3",)
    assert shared_classes(run.files.pools, LABELS, overlapping, allow=False) == ()  # a file tells no names
    settings = [f"--set=prior.{key}={value}" for key, value in TINY["gmi"]["prior"].items()]
    command = ["attack", str(run.path), "--kind=gmi", "--set=iterations=1", *settings, "--classes-to-invert=0,1"]
    command += ["--restarts=2", "--public=mnist", "--public-limit=50", "--out", str(tmp_path / "out")]
    assert isinstance(CliRunner().invoke(app, command).exception, ConfigError)
    assert not (tmp_path / "out").exists()
    marked = CliRunner().invoke(app, [*command, "--allow-overlap"], catch_exceptions=False)
    assert "Overlap: the public images show the classes 0, 1 too" in " ".join(marked.output.split())
    (about,) = (tmp_path / "out").rglob("about.json")
    assert Inversion(about.parent).about.shared_classes == ("0", "1")


def test_a_caption_stands_above_the_pictures(tmp_path: Path) -> None:
    rows = [torch.zeros(2, 1, 32, 32)]
    save_sheet(tmp_path / "plain.png", rows)
    save_sheet(tmp_path / "told.png", rows, caption="overlap: 0")
    plain, captioned = Image.open(tmp_path / "plain.png"), Image.open(tmp_path / "told.png")
    assert captioned.height > plain.height
    assert is_caption(captioned.crop((0, 0, captioned.width, captioned.height - plain.height)))
    assert not is_caption(plain)


def test_a_run_with_overlap_says_so_in_every_output(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"private_limit": 400, "public_limit": 200, "public": "mnist", "allow_overlap": True}
    experiment = tiny(data=data, federation={"rounds": 1}, attacker={"processes": 1})
    run = Run(run_all(experiment, resume=False).parent)
    output = " ".join(capsys.readouterr().out.split())
    assert output.count(OVERLAP) == 1
    assert "Overlap" in output.split("Federating")[0]  # the threat model, before anything starts
    assert read_json(run.files.verdict)["marks"] == [OVERLAP]
    for name in ("scores", "leakage"):
        assert pd.read_parquet(run.files.auditor.root / f"{name}.parquet")["overlap"].all()
        assert pd.read_csv(run.files.auditor.root / f"{name}.csv")["overlap"].all()
    assert all(each.inversion.about.shared_classes == ("0", "1") for each in finished(run))
    grids = [Image.open(path) for path in (run.files.auditor.root / "grids").iterdir()]
    assert grids
    for grid in grids:
        assert grid.height == 2 * 3 * 32 + 16  # two classes, enlarged three times, and the caption
        assert is_caption(grid.crop((0, 0, grid.width, 16)))
    page = html.unescape((run.files.report).read_text())
    assert page.count(OVERLAP) == 2  # beside the verdict, and in the gallery
    assert verdict_of(run.path).endswith(", overlap")
    compared = compare_runs([run.path], run.path / "compared").parent
    text = (compared / "compare.md").read_text()
    assert all(OVERLAP in part for part in text.split("\n**")[1:])  # every table: a document may take one
    assert "Overlap allowed" in (compared / "compare.html").read_text().split("</header>")[0]
    assert pd.read_parquet(compared / "compare.parquet")["overlap"].all()
    assert OVERLAP in " ".join(capsys.readouterr().out.split())


def is_caption(strip: Image.Image) -> bool:
    """Whether there are dark letters on white."""
    low, high = strip.convert("L").getextrema()
    return low < 100 and high > 200


def test_an_inversion_reports_its_diversity_and_precision(tmp_path: Path) -> None:
    where = Inversion(tmp_path / "one")
    invert(attack("gmi"), where, target(), public(), LABELS, 0)
    about = where.about
    assert set(about.diversity) == {"0", "3"}
    measured = about.diversity["3"]
    assert measured.samples == 2
    assert 1 <= measured.vendi <= 2
    assert measured.pixel_distance > 0
    assert about.shared_classes == ()
    assert about.cost.precision == "fp32"
    assert where.load().cost.precision == "fp32"
