"""The parts of a report, each without a run: gallery, chart, axes, partition, folds."""

import re

import numpy as np
import pytest
import torch
from report_page import Page

from auditor.arms import ARMS
from auditor.evidence import Exhibit
from auditor.nearest import KINDS, BestReconstruction, best_per_class
from auditor.verdict import Interval, Missing, Point
from report.run.copies import CopiesShown
from report.run.curve import Canvas, chart
from report.run.gallery import LOSSLESS_BYTES, encoded, gallery
from report.run.page import Figures, Leakage, render
from report.run.partition import partition
from report.run.tables import controls
from report.table import FOLD, Table


def exhibit_of(labels: list[int], confidence: list[float], failed: list[bool]) -> Exhibit:
    images = torch.rand(len(labels), 1, 32, 32)
    return Exhibit(
        "A", "with_victim", 1, "gmi", images, torch.tensor(labels), torch.tensor(confidence), torch.tensor(failed)
    )


def test_the_attacker_keeps_the_surest_sound_reconstruction() -> None:
    exhibit = exhibit_of([1, 0, 0, 1, 2], [0.2, 0.9, 0.5, 0.8, 1.0], [False, True, False, False, True])
    assert best_per_class(exhibit).tolist() == [2, 3]


def found_class(label: int, train: float, public: float) -> BestReconstruction:
    images = {kind: torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for kind in KINDS}
    return BestReconstruction(label, images, {"train": train, "reserve": 1.0, "public": public})


def test_classes_are_ranked_by_success_the_victims_first_and_failures_say_so() -> None:
    best = [found_class(0, 0.9, 1.0), found_class(1, 0.5, 0.4), found_class(3, 0.2, 1.0)]
    success = {0: 0.5, 1: 0.5, 2: 0.0, 3: 1.0}
    ranked = gallery("gmi", 1, best, encoded(best), success, ["a", "b", "c", "d"], [0, 1, 2])
    assert [cell.name for cell in ranked.victims] == ["b", "a", "c"]
    assert [cell.name for cell in ranked.others] == ["d"]
    assert [cell.remark for cell in ranked.victims] == [
        "nearer to an image of the attacker's",
        "",
        "every reconstruction failed",
    ]
    assert ranked.victims[2].pictures == []
    assert [len(cell.pictures) for cell in ranked.victims[:2]] == [4, 4]


def point(**arms: Interval) -> Point:
    omitted = Missing(omitted="not asked for")
    figures = ("gate", "leakage", "selection", "corrected", "normalised", "p", "p_holm", "minimum_detectable_effect")
    return Point(
        attack="gmi",
        round=2,
        outcome="inconclusive",
        arms=dict.fromkeys(ARMS, omitted) | arms,
        leads={},
        **dict.fromkeys(figures, omitted),  # type: ignore[arg-type]
    )


def test_an_arm_that_was_not_run_has_no_line_and_says_why() -> None:
    points = [point(A=Interval(value=0.5, low=0.2, high=0.8, marks=()))]
    drawn = chart(points, "gmi", 2, {0: 0.1, 1: 0.4, 2: 0.9}, 0.5)
    lines = {line.arm: line for line in drawn.series}
    assert lines["A"].checked
    assert not lines["B2"].checked
    assert lines["B2"].reason == "not asked for"
    assert drawn.unlearned == (0, 1)
    assert {arm: figure for arm, _, _, figure in controls(points[0])}["B2"] == "not run: not asked for"


def test_the_axes_reach_from_the_first_to_the_last_round() -> None:
    for last in (1, 7, 10, 50, 199, 1000):
        canvas = Canvas(984, 340, tuple(range(last + 1)))
        assert (canvas.x(0), canvas.x(last)) == (canvas.left, canvas.width - canvas.right)
        assert (canvas.y(1), canvas.y(0)) == (canvas.top, canvas.height - canvas.bottom)
        ticks = canvas.ticks()
        assert ticks[0] == 0
        assert ticks[-1] == last
        assert len(ticks) <= 12


def test_the_partition_draws_every_cell_that_holds_an_image_once() -> None:
    counts = np.array([[250, 0, 12], [0, 9, 0], [0, 0, 1]], np.int64)
    drawn = partition(counts, 0, ["a", "b", "c"])
    cells = [cell for shade in drawn.shades for cell in re.findall(r"M(\d+) (\d+)", shade.path)]
    assert sorted(cells) == [("0", "0"), ("1", "1"), ("2", "0"), ("2", "2")]
    assert sum(len(re.findall("M", shade.path)) for shade in drawn.shades if shade.victim) == 2
    assert max(shade.opacity for shade in drawn.shades) == 1


def test_a_thousand_classes_are_folded_and_the_page_stays_small() -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=(64, 64), mode="bicubic").clamp(0, 1)
    pictures = dict(zip(KINDS, smooth.mul(255).to(torch.uint8), strict=True))
    best = [BestReconstruction(label, pictures, {"train": 0.5, "reserve": 0.6, "public": 0.7}) for label in range(1000)]
    uris = encoded(best)
    assert sum(len(uri) for each in uris[0] for uri in each.values()) * 3 / 4 < LOSSLESS_BYTES * 1.2
    assert not uris[1]
    names = [f"person {label}" for label in range(1000)]
    table = Table("By class", ["class", "recognised"], [[name, "100 %"] for name in names])
    folded = gallery("gmi", 1, best, uris, dict.fromkeys(range(1000), 1.0), names, range(1000))
    text = render(
        Figures(
            name="many",
            outcome="leak",
            title="Leak",
            plain=": much </script> of it.",
            qualification="",
            advice=[],
            provenance=[],
            headline="Leak: much </script> of it.",
            finding="",
            marks=[],
            notes=[],
            facts=[],
            leakage=Leakage(
                [], [folded], CopiesShown("None.", []), None, None, [], [], [], table, table, None, [], [], table
            ),
            utility=table,
            partition=partition(np.ones((20, 1000), np.int64), 0, names),
            clients=table,
            cohorts=None,
            threat=[],
            config="",
        )
    )
    page = Page(text)
    assert len(text) < 4_000_000
    assert "Show all 1000 classes" in [summary for _, summary, _ in page.all("summary")]
    assert len(page.all("button")) == 1000 + 3
    assert sum("details" in around for _, _, around in page.all("button")) == 1000 - 48
    assert len(table.rows) > FOLD
    assert [attributes.get("class") for attributes, _, around in page.all("table") if "details" not in around] == [
        "explained"  # the controls are never folded
    ]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_console_table_of_ten_arms_keeps_every_figure_on_every_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not fit it is printed row by row; it used to be squeezed until figures were cut."""
    from rich.console import Console

    from report import console as module

    narrow = Console(width=width)
    monkeypatch.setattr(module, "console", narrow)
    arms = [f"B{number}" for number in range(10)]
    figures = [f"{number}9.{number} %" for number in range(1, 11)]
    with narrow.capture() as printed:
        module.table("Attack 'gmi': shares", ["round", *arms, ""], [["1", *figures, "not yet"]])
    shown = printed.get()
    assert all(figure in shown for figure in figures)
    assert all(arm in shown for arm in arms)
    assert "…" not in shown
    assert max(map(len, map(str.rstrip, shown.splitlines()))) <= width
