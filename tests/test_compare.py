"""Comparisons: what is grouped, paired, refused and marked; figures against values worked out by hand."""

import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Browser
from conftest import merged
from PIL import Image
from test_report_browser import CONTRAST
from typer.testing import CliRunner

from auditor.arms import ARMS, ONCE
from auditor.canaries import CanaryReport
from auditor.judgement import judge
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import holm
from auditor.table import COLUMNS
from auditor.verdict import GateReport, Missing
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.run import Run
from fedinverse.storage import append_jsonl, write_json
from pipeline.cli.main import app
from pipeline.compare import compare, judged
from pipeline.experiment import resolved
from report.comparison import Comparison, Record
from report.comparison.groups import grouped
from report.comparison.matched import front, matched
from report.comparison.page import render
from report.comparison.pictures import _write_numbers, look_of, plane_svg
from report.comparison.records import Rank

Make = Callable[..., Record]
LABELS = (0, 1)
BIDO = {"cohorts": [{"defence": "bido_hsic", "fraction": 1.0}]}
VERSION_1 = json.loads((Path(__file__).parent / "corpus" / "verdict-1.json").read_text())
SCORES = {"A": (0.9, 0.7), "B0": (0.1, 0.2), "B2": (0.2, 0.0), "B3": (0.1, 0.1), "CEIL": (1.0, 0.9)}


@pytest.fixture
def make(tiny: Callable[..., Any], tmp_path: Path) -> Make:
    """Return a function that writes what a finished, audited run leaves behind, with scores of our choice."""

    def build(
        name: str,
        seed: int = 0,
        scores: Mapping[str, tuple[float, float]] | None = None,
        accuracy: float = 0.8,
        attack: str = "gmi",
        rounds: tuple[int, ...] = (3,),
        images: str = "",
        label: str = "",
        **changes: Any,
    ) -> Record:
        run = Run(tmp_path / "made" / name)
        table = merged(
            resolved(
                tiny(name=name, seed=seed, attacks={attack: {"kind": "gmi"}}, audit={"primary": {"attack": attack}})
            ),
            changes,
        )
        write_json(run.files.config, table)
        rows = [
            (
                seed,
                f"with{'out' * ARMS[arm].lacks_victim}_victim",
                number,
                arm,
                attack,
                k,
                "attack-accuracy",
                values[k],
                10,
            )
            for arm, values in (scores or SCORES).items()
            for number in (rounds[-1:] if arm in ONCE else rounds)
            for k in LABELS
        ]
        run.files.auditor.root.mkdir()
        scored = pd.DataFrame(rows, columns=list(COLUMNS))
        scored.to_parquet(run.files.auditor.scores, index=False)
        verdict = judge(scored, Primary(metric="attack-accuracy"), {}, classes=10)
        write_json(run.files.verdict, verdict.model_dump(mode="json"))
        parts = ("train", "vault", "reserve")
        images_of = [(f"{seed}{images}{n}", n % 2, parts[n % 3], -1 if n % 3 else 0) for n in range(12)]
        manifest = pd.DataFrame(images_of, columns=["sha256", "label", "part", "client"])
        manifest.to_parquet(run.files.split, index=False)
        lines = [
            {
                "round": n,
                "sha256": f"{n:064}",
                "accuracy": accuracy,
                "loss": 0.5,
                "victim-accuracy": 0.9,
                "class-accuracy": [0.9] * 10,
            }
            for n in range(rounds[-1] + 1)
        ]
        append_jsonl(run.files.server.rounds("with_victim"), *lines)
        write_json(run.files.times, {"federate": 12.0})
        return Record(run, label)

    return build


def value(comparison: Comparison, group: str, quantity: str, column: str = "value") -> Any:
    rows = comparison.table[(comparison.table["group"] == group) & (comparison.table["quantity"] == quantity)]
    assert len(rows) == 1, (group, quantity)
    return rows[column].iloc[0]


def test_seeds_are_pooled_and_differences_paired_by_seed_and_class(make: Make) -> None:
    weaker = SCORES | {"A": (0.5, 0.5), "B2": (0.1, 0.1)}
    runs = [
        make("a", 0),
        make("b", 1, SCORES | {"A": (0.8, 0.6)}),
        make("c", 0, weaker, 0.795, **BIDO),
        make("d", 1, weaker | {"A": (0.4, 0.2)}, 0.795, **BIDO),
    ]
    comparison = compare(runs, "test")
    plain, defended = "no defence", "bido_hsic on 100%"
    assert list(dict.fromkeys(comparison.table["group"])) == [plain, defended]
    assert value(comparison, plain, "A") == pytest.approx(0.75)
    assert value(comparison, plain, "leakage") == pytest.approx((0.8 + 0.6) / 2 - 0.05 + 0.0)
    assert value(comparison, defended, "leakage") == pytest.approx(0.3)
    assert value(comparison, defended, "difference of leakage") == pytest.approx(0.3 - 0.65)
    assert value(comparison, defended, "difference of attack-accuracy") == pytest.approx(0.4 - 0.75)
    assert value(comparison, defended, "difference of leakage", "matched")
    assert value(comparison, defended, "difference of leakage", "seeds") == 2
    low, high = (value(comparison, defended, "difference of leakage", end) for end in ("low", "high"))
    assert low < -0.35 < high
    assert value(comparison, plain, "seconds-per-round") == pytest.approx(4.0)
    assert "matched accuracy (-0.5 points)" in comparison.page.findings[1]
    assert comparison.page.findings[0].startswith("Group “")  # a group may be called "none"
    assert ", round 3" in comparison.page.curves  # one round: bars, one per group


def test_only_seeds_of_both_groups_are_paired(make: Make) -> None:
    lower = SCORES | {"A": (0.6, 0.3)}
    runs = [make("a", 0), make("b", 1), make("c", 1, lower, **BIDO), make("d", 2, SCORES | {"A": (0.1, 0.1)}, **BIDO)]
    comparison = compare(runs, "test")
    assert value(comparison, "bido_hsic on 100%", "difference of attack-accuracy") == pytest.approx(-0.35)
    assert value(comparison, "bido_hsic on 100%", "difference of attack-accuracy", "seeds") == 1
    alone = compare([runs[0], runs[3]], "test")
    assert "no seed and class in common" in value(alone, "bido_hsic on 100%", "difference of leakage", "omitted")


def test_holm_is_over_the_groups_compared(make: Make) -> None:
    spread = {"A": (0.6, 0.3)}, {"A": (0.2, 0.4)}
    runs = [make("a")] + [
        make(f"d{number}", 0, SCORES | each, training={"lr": 0.1 * (number + 1)}) for number, each in enumerate(spread)
    ]
    table = compare(runs, "test").table
    rows = table[table["quantity"] == "difference of attack-accuracy"]
    assert len(rows) == 2
    assert tuple(rows["p_holm"]) == pytest.approx(holm(list(rows["p"])))
    assert (rows["baseline"] == "training.lr 0.05").all()


def test_not_at_matched_accuracy_is_said(make: Make) -> None:
    comparison = compare([make("a"), make("c", 0, accuracy=0.78, **BIDO)], "test")
    assert not value(comparison, "bido_hsic on 100%", "difference of leakage", "matched")
    assert "not at matched accuracy (-2.0 points)" in comparison.page.findings[1]


def test_without_the_control_world_leakage_is_omitted_with_its_reason(make: Make) -> None:
    scores = {arm: shares for arm, shares in SCORES.items() if arm != "B2"}
    comparison = compare([make("a"), make("c", 0, scores | {"A": (0.7, 0.2)}, **BIDO)], "test")
    for quantity in ("leakage", "difference of leakage", "B2"):
        assert "arm B2 has no attack-accuracy" in value(comparison, "bido_hsic on 100%", quantity, "omitted")
        assert np.isnan(value(comparison, "bido_hsic on 100%", quantity))
    assert value(comparison, "bido_hsic on 100%", "difference of attack-accuracy") == pytest.approx(0.45 - 0.8)
    assert "leakage omitted: arm B2" in comparison.page.findings[1]
    assert "attack accuracy (no leakage" in comparison.page.plane


def test_other_attacks_and_rounds_are_compared_and_marked(make: Make) -> None:
    other = make("k", 0, attack="kedmi", rounds=(2,), attacks={"kedmi": {"kind": "kedmi"}, "gmi": None})
    comparison = compare([make("a"), other], "test")
    assert "the primary attacks differ: gmi, kedmi" in comparison.page.marks
    assert "the primary rounds differ: 2, 3" in comparison.page.marks
    assert len(set(comparison.table["group"])) == 2
    assert value(comparison, comparison.table["group"].iloc[-1], "difference of leakage") == pytest.approx(0.0)


def test_an_evaluator_that_differs_is_marked(make: Make) -> None:
    comparison = compare([make("a"), make("c", 0, audit={"evaluator": {"epochs": 2}})], "test")
    assert comparison.page.marks == ["the evaluators differ: a difference may be theirs"]


def test_seeds_whose_last_capture_was_another_round_are_pooled_at_it(make: Make) -> None:
    comparison = compare([make("a", 0, rounds=(2, 3)), make("b", 1, SCORES | {"A": (0.5, 0.3)}, rounds=(2,))], "test")
    assert value(comparison, "all runs", "A") == pytest.approx(0.6)
    assert value(comparison, "all runs", "CEIL") == pytest.approx(0.95)
    assert "the primary rounds differ: 2, 3" in comparison.page.marks


def test_epsilon_is_the_largest_total_of_any_client(make: Make) -> None:
    record = make("a")
    reports = record.run.files.server.client_reports("with_victim")
    lines = [(1, 0, 1.0), (1, 1, 2.5), (2, 0, 1.5), (2, 2, None)]
    printed = [{"round": r, "partition": p} | ({} if e is None else {"epsilon": e}) for r, p, e in lines]
    append_jsonl(reports, *printed)
    comparison = compare([record], "test")
    assert value(comparison, "all runs", "epsilon") == 2.5
    assert "no client's training has accounted noise" in value(comparison, "all runs", "central-epsilon", "omitted")
    append_jsonl(reports, {"round": 3, "partition": 0, "epsilon": "inf"})
    assert value(compare([record], "test"), "all runs", "epsilon") == np.inf


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"population": {"victim": 1}}, "'population.victim' is 0 in .*a and 1 in .*c"),
        ({"population": {"victim_classes": [0]}}, "'population.victim_classes' is"),
        ({"data": {"private": "digits"}}, "'data.private' is mnist"),
        ({"split": {"train": 0.4}}, r"'split\.train' is 0.5"),
        ({"audit": {"primary": {"metric": "resemblance"}}}, r"'audit\.primary\.metric' is attack-accuracy"),
        ({"images": "other"}, "same seed but other images in the victim's shard, the vault, the reserve"),
        ({}, "are the same seed of the same group; leave one out"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], complaint: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=complaint):
        compare([make("a"), make("c", 0, **changes)], "test")


def test_a_run_given_twice_not_audited_or_of_another_version_is_refused(make: Make) -> None:
    record, other = make("a"), make("b", 1)
    with pytest.raises(ConfigError, match="is given twice"):
        compare([record, record], "test")
    write_json(other.run.path / "verdict.json", {"version": 99})
    with pytest.raises(IntegrityError, match="version 99"):
        compare([record, Record(other.run)], "test")
    write_json(other.run.files.verdict, VERSION_1)
    with pytest.raises(StageError, match=r"by the rules of version 1.*fedinverse audit"):
        compare([record, Record(other.run)], "test")
    (other.run.files.auditor.scores).unlink()
    (other.run.path / "verdict.json").unlink()
    with pytest.raises(StageError, match="fedinverse audit"):
        compare([record, Record(other.run)], "test")


def test_by_groups_by_one_key_and_the_baseline_is_chosen_by_name(make: Make) -> None:
    runs = [
        make("a", 0),
        make("b", 1, training={"lr": 0.2}),
        make("c", 0, **BIDO),
        make("d", 1, **merged(BIDO, {"training": {"lr": 0.2}})),
    ]
    comparison = compare(runs, "test", by=["cohorts"], baseline="bido_hsic on 100%")
    assert comparison.page.tables[0].rows[0][:2] == ["1  no defence", "2"]
    assert set(comparison.table["baseline"].dropna()) == {"bido_hsic on 100%"}
    with pytest.raises(ConfigError, match=r"--by cohorts\.x does not vary"):
        compare(runs, "test", by=["cohorts.x"])
    with pytest.raises(ConfigError, match=r"they differ in training\.lr: name one with --by"):
        compare([runs[0], runs[2], make("e", 0, training={"lr": 0.3})], "test", by=["cohorts"])
    with pytest.raises(ConfigError, match="--baseline 'x' is no group; the groups are: no defence; bido_hsic on 100%"):
        compare(runs, "test", by=["cohorts"], baseline="x")


def test_the_command_writes_page_and_tables_that_agree(make: Make, tmp_path: Path) -> None:
    sweep = tmp_path / "made"
    make("a", 0)
    make("b", 0, SCORES | {"A": (0.4, 0.1)}, **BIDO)
    points = [("plain", "a", "finished"), ("bido", "b", "finished"), ("late", "x", "failed")]
    write_json(
        sweep / "sweep.json",
        {
            "version": 1,
            "baseline": "bido",
            "points": [{"label": label, "run": run, "state": state} for label, run, state in points],
        },
    )
    result = CliRunner().invoke(app, ["compare", str(sweep)])
    assert result.exit_code == 0, result.exception
    html, text = (sweep / "compare.html").read_text(), (sweep / "compare.md").read_text()
    assert html.count("<svg") == 2
    assert not re.findall(r"""(?:src|href)=["']https?:""", html)  # nothing is fetched
    table = pd.read_parquet(sweep / "compare.parquet")
    shared = ["group", "quantity", "value", "low", "high", "p", "p_holm", "seeds"]
    pd.testing.assert_frame_equal(pd.read_csv(sweep / "compare.csv")[shared], table[shared])
    assert list(table["matched"].notna()) == list(table["p"].notna())
    assert set(table["baseline"].dropna()) == {"bido"}
    assert "| 1  plain | 1 | 80.0 % | 90.0 % | 80.0 % | 70 %" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Paired differences from “bido”" in text
    nowhere = CliRunner().invoke(app, ["compare", str(tmp_path / "nowhere")])
    assert "neither a run directory nor a sweep" in str(nowhere.exception)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_in_either_scheme_and_on_a_phone(
    scheme: str, make: Make, tmp_path: Path, browser: Browser
) -> None:
    page = tmp_path / "compare.html"
    page.write_text(render(compare([make("a", 0), make("b", 0, **BIDO)], "test", by=["cohorts"]).page))
    for width, height in ((1280, 900), (390, 844)):
        browser.open(page, width, height, scheme=scheme)
        grey, counts = np.unique(np.asarray(Image.open(io.BytesIO(browser.picture())).convert("L")), return_counts=True)
        assert (grey[counts.argmax()] > 240) == (scheme == "light")
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.complaints == []
        charts = browser.ask('[...document.querySelectorAll("figure svg")].map((e) => getComputedStyle(e).filter)')
        assert {each.startswith("invert") for each in charts} == {scheme == "dark"}  # drawn for paper, inverted whole
        low = [each for each in browser.ask(CONTRAST) if scheme == "light" or not each.startswith("<text")]
        assert low == []


def ranked(record: Record, defence: str, strength: int, undefended: str = "none") -> Record:
    return replace(record, rank=Rank(defence, strength, undefended))


def smoothing(strength: float) -> dict[str, Any]:
    return {"cohorts": [{"defence": "neg_label_smoothing", "fraction": 1.0, "settings": {"alpha": strength}}]}


@pytest.fixture
def searched(make: Make) -> list[Record]:
    """Return two seeds without a defence, of one that matches at two of three strengths, and of one that never does."""
    weak, strong = SCORES | {"A": (0.7, 0.5)}, SCORES | {"A": (0.4, 0.2)}
    runs = []
    for seed, apart in ((0, 0.0), (1, 0.002)):
        runs.append(make(f"none-{seed}", seed, accuracy=0.8 + apart, label="none"))
        for number, (accuracy, scores) in enumerate(((0.801, SCORES), (0.795 + 2 * apart, weak), (0.7, strong))):
            record = make(
                f"s{number}-{seed}", seed, scores, accuracy, label=f"s-{number}", **smoothing(-0.1 * number - 0.1)
            )
            runs.append(ranked(record, "smoothing", number))
        record = make(f"b-{seed}", seed, strong, 0.77, label="b-0", **BIDO)
        runs.append(ranked(record, "bido", 0))
    return runs


def test_a_defence_is_compared_at_its_strongest_point_of_equal_accuracy(searched: list[Record]) -> None:
    made = compare(searched, "t", baseline="none")
    table = next(each for each in made.page.tables if each.caption.startswith("Defences at matched accuracy"))
    bought = {row[0]: row for row in table.rows}
    assert bought["smoothing"][3] == "s-1"
    assert bought["smoothing"][2] == "s-0 (+0.0); s-1 (-0.4); s-2 (-10.1)"
    assert bought["smoothing"][5].startswith("-20 [")
    assert bought["bido"][3:6] == ["none", "–", "–"]
    assert any("no strength within one point of accuracy" in note for note in table.notes)
    assert value(made, "s-1", "leakage at matched accuracy") == pytest.approx(-0.2)
    row = made.table[made.table["quantity"] == "leakage at matched accuracy"].set_index("group")
    assert row["matched"].tolist() == [True, False]
    assert row.loc["s-1", "p"] == row.loc["s-1", "p_holm"]  # one comparison is adjusted for one
    assert "no strength" in row.loc["bido", "omitted"]
    said = " ".join(made.page.findings)
    assert "Defence “smoothing” at matched accuracy (“s-1”" in said
    assert "“bido” at matched accuracy (against “none”): nothing can be said: no strength within one point" in said
    assert "the nearest is “b-0” (-3.1 points)" in said


def test_a_match_carries_its_interval_and_the_front_is_what_nothing_beats_in_both(searched: list[Record]) -> None:
    figures = [judged(group) for group in grouped(searched)]
    rows = {row.defence: row for row in matched(figures)}
    chosen = rows["smoothing"].chosen
    assert chosen is not None
    assert chosen.accuracy == pytest.approx(np.mean([-0.005, -0.003]))
    assert chosen.half_width == pytest.approx(12.7062 * 0.001, rel=1e-4)  # t with one degree of freedom
    assert chosen.matched
    assert not chosen.surely
    dead = figures[0].verdict.main.gate
    assert isinstance(dead, GateReport)
    points = tuple(
        each.model_copy(update={"gate": dead.model_copy(update={"learned": False})})
        for each in figures[0].verdict.points
    )
    unlearned = replace(figures[0], main=points[0])
    first, _ = matched([unlearned, *figures[1:]])
    assert first.leakage == Omitted("“none” has not learned the victim's classes")
    heights = [0.7, 0.75, 0.5, 0.2, 0.3]
    assert [each.group.label for each in figures] == ["none", "s-0", "s-1", "s-2", "b-0"]
    assert [figures[number].group.label for number in front(figures, heights)] == ["s-2", "b-0", "s-1", "none"]
    assert front(figures, [None, None, 0.5, None, None]) == [2]
    assert "Pareto front" in plane_svg(figures)


def test_the_numbers_of_groups_at_one_place_stand_apart() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _write_numbers(axes, [(str(number), (0.5, 0.5), "black") for number in range(8, 13)])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["8", "9", "10", "11", "12"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_different_public_images_are_drawn_as_a_ladder_in_the_order_given(make: Make) -> None:
    # Fails if the picture stands on every page, leaves out a rung, or hides what the public images show by themselves.
    scores = {**SCORES, "B4": (0.5, 0.4)}
    rungs = [make(name, scores=scores, data={"public": name}, label=name) for name in ("glyphs", "mnist59")]
    comparison = compare(rungs, "ladder")
    picture = comparison.page.ladder
    assert picture.startswith("<svg")
    for bar in ("1  glyphs", "2  mnist59", "the attack", "public images alone", "without the victim"):
        assert bar in picture
    assert "What hangs on the public images" in render(comparison.page)
    same = compare(rungs[:1], "no ladder").page
    assert same.ladder == ""
    assert "What hangs on the public images" not in render(same)


def test_what_canaries_show_stands_beside_epsilon(make: Make) -> None:
    record = make("b")
    none = Missing(omitted="no")
    figures: dict[str, Any] = {"sha256": "0", "round": 3, "count": 20, "planted": 9, "confidence": 0.95, "delta": 1e-5}
    figures |= {"guesses": 20, "right": 20, "epsilon": 1.48, "most": 1.48, "exposure": none, "accounted": ()}
    write_json(record.run.files.auditor.canaries, CanaryReport(**figures).model_dump(mode="json"))
    comparison = compare([record], "t")
    assert value(comparison, "all runs", "epsilon-bound") == pytest.approx(1.48)
    assert comparison.page.tables[-1].rows[0][-1] == "1.5"
    assert not any(each.caption.startswith("Defences at matched") for each in comparison.page.tables)


def test_no_two_groups_look_alike() -> None:
    # Fails if the ninth group is drawn as the first is.
    assert len({look_of(number) for number in range(64)}) == 64
