"""People as judges: what they are asked, what their answers say, and what is refused."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from report_page import page_of
from typer.testing import CliRunner

from auditor.evidence import Exhibit, read_exhibit
from auditor.omitted import Omitted
from auditor.people.agreement import cohens_kappa, interval, krippendorffs_alpha
from auditor.people.answers import Answer, Answers, Given, named, read_answers
from auditor.people.reading import Share, read, read_people
from auditor.people.sheet import KINDS, Item, Key, draw, read_key
from auditor.statistics import Bounded, wilson
from fedinverse.errors import ConfigError, FedInverseError, StageError
from fedinverse.layout import RECONSTRUCTIONS, SheetFiles
from fedinverse.run import Run
from fedinverse.storage import load_weights, read_json, write_json
from fedinverse.theirs import TheirError
from pipeline.cli.main import app
from pipeline.people import answer_with, make_sheet, read_sheet
from pipeline.stages.inversions import finished
from report.console import console
from report.judge.tables import people_figures

MISSING = -1


@pytest.fixture(scope="module")
def sheet(attacked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> SheetFiles:
    files = SheetFiles(tmp_path_factory.mktemp("judge"))
    make_sheet(attacked_run, files, per_kind=4)
    return files


def command(*arguments: object) -> str:
    """Run a command in this process; return what it printed, raise what it raised."""
    with console.capture() as captured:
        result = CliRunner().invoke(app, [str(each) for each in arguments])
    if isinstance(result.exception, FedInverseError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return captured.get()


def key_of(*items: tuple[str, bool, bool]) -> Key:
    """Return a key of items (kind, what E1 says, what both open evaluators say)."""
    items = tuple(Item(f"i{number}", kind, 0, closed, opened) for number, (kind, closed, opened) in enumerate(items))  # type: ignore[arg-type]
    return Key(1, "sheet", "run", "gmi", 3, ("zero",), items, ())


def answered(*given: Answer | None, judge: str = "ada", sheet: str = "sheet") -> Answers:
    pairs = tuple(Given(f"i{number}", each) for number, each in enumerate(given) if each)
    return Answers(1, sheet, judge, pairs)


def test_every_kind_is_asked_about_and_is_what_the_key_says(sheet: SheetFiles, attacked_run: Run) -> None:
    key, images = read_key(sheet.key), torch.from_numpy(load_weights(sheet.images)[0]["images"])
    assert images.shape == (len(key.items), 5, 1, 32, 32)
    assert {kind: sum(item.kind == kind for item in key.items) for kind in KINDS} == dict.fromkeys(KINDS, 4)
    assert [item.kind for item in key.items] != sorted(item.kind for item in key.items)
    pool, split = attacked_run.pools["private"], attacked_run.split
    reserve = split[(split["part"] == "reserve")]
    label_of = {
        pool.images[row].tobytes(): int(label) for row, label in zip(reserve["row"], reserve["label"], strict=True)
    }
    for item, (asked, *beside) in zip(key.items, images, strict=True):
        assert item.label in attacked_run.population.victim_classes
        assert [label_of[each.numpy().tobytes()] for each in beside] == [item.label] * 4
        assert len({each.numpy().tobytes() for each in (asked, *beside)}) == 5
        if item.kind == "true-positive":
            assert label_of[asked.numpy().tobytes()] == item.label
        elif item.kind == "wrong-class":
            assert label_of[asked.numpy().tobytes()] not in (item.label, None)
        else:
            assert asked.numpy().tobytes() not in label_of
    assert key.round == 3
    exhibit = read_exhibit(_primary(attacked_run) / RECONSTRUCTIONS, "A", "with_victim", 3, "gmi")
    pixels = {each.mul(255).round().to(torch.uint8).numpy().tobytes() for each in exhibit.images}
    asked_about = [image[0] for item, image in zip(key.items, images, strict=True) if item.kind == "reconstruction"]
    assert all(each.numpy().tobytes() in pixels for each in asked_about)


def _primary(run: Run) -> Path:
    return next(
        each.inversion.path
        for each in finished(run)
        if (each.attack, each.target.arm, each.target.round) == ("gmi", "A", 3)
    )


def test_the_page_holds_its_images_and_not_what_they_are(sheet: SheetFiles) -> None:
    page, key = sheet.page.read_text(), read_key(sheet.key)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))  # type: ignore[union-attr]
    assert set(data) == {"version", "sheet", "items"}
    assert [each["id"] for each in data["items"]] == [item.id for item in key.items]
    assert all(set(each) == {"id", "image", "beside"} and len(each["beside"]) == 4 for each in data["items"])
    for word in (*KINDS, "gmi", "prior", "E1", "reserve", key.run):
        assert word not in re.sub(r"data:image/png;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?://", page)
    assert "default-src 'none'" in page


def test_the_same_seed_gives_the_same_page_and_another_one_does_not_replace_it(
    sheet: SheetFiles, attacked_run: Run, tmp_path: Path
) -> None:
    again = SheetFiles(tmp_path / "again")
    make_sheet(attacked_run, again, per_kind=4)
    assert again.page.read_bytes() == sheet.page.read_bytes()
    assert again.key.read_bytes() == sheet.key.read_bytes()
    before = sheet.key.read_bytes()
    with pytest.raises(StageError, match=r"holds another page.*--out"):
        make_sheet(attacked_run, sheet, per_kind=4, seed=1)
    assert sheet.key.read_bytes() == before
    exhibits = _exhibits(attacked_run)
    assert draw(attacked_run, exhibits, 4, 0).sheet != draw(attacked_run, exhibits, 4, 1).sheet


def _exhibits(run: Run) -> list[Exhibit]:
    return [read_exhibit(_primary(run) / RECONSTRUCTIONS, "A", "with_victim", 3, "gmi")]


def test_what_a_run_lacks_is_said_and_failed_images_are_not_asked_about(attacked_run: Run) -> None:
    (exhibit,) = _exhibits(attacked_run)
    failed = exhibit.failed.clone()
    failed[(exhibit.labels == 1).nonzero().flatten()] = True
    drawn = draw(attacked_run, [replace(exhibit, failed=failed)], 6, 0)
    labels = [label for kind, label in zip(drawn.kinds, drawn.labels, strict=True) if kind == "reconstruction"]
    assert labels == [0, 0]
    assert [note.split(":")[0] for note in drawn.notes] == ["no control-world items", "no prior-only items"]
    with pytest.raises(StageError, match="no reconstruction"):
        draw(attacked_run, [replace(exhibit, failed=torch.ones_like(failed))], 2, 0)


def test_a_run_without_attack_is_told_what_to_do(unattacked_run: Run) -> None:
    with pytest.raises(StageError, match="was not audited; run 'fedinverse audit"):
        command("judge", unattacked_run.path)
    with pytest.raises(StageError, match="is not a run directory"):
        command("judge", unattacked_run.path.parent, "--read", "answers.json")


def test_figures_are_those_worked_out_by_hand() -> None:
    key = key_of(
        ("true-positive", True, True),
        ("true-positive", True, True),
        ("wrong-class", False, False),
        ("wrong-class", False, False),
        ("reconstruction", True, True),
        ("reconstruction", True, False),
        ("control-world", True, False),
        ("control-world", False, False),
        ("prior-only", False, False),
    )
    reading = read(key, {"ada": answered("yes", "unsure", "no", "no", "yes", "no", "no", "unsure", "no")})
    assert isinstance(reading.accuracy, Share)
    assert reading.accuracy.value == pytest.approx(0.75)
    half, whole = wilson(1, 2), wilson(2, 2)
    down = np.hypot(0.5 - half[0], 1 - whole[0]) / 2
    assert reading.accuracy.low == pytest.approx(0.75 - down)
    shares = {each.kind: (each.yes.value, each.no.value, each.unsure.value) for each in reading.kinds}
    assert shares["true-positive"] == (0.5, 0, 0.5)
    assert shares["control-world"] == (0, 0.5, 0.5)
    assert isinstance(reading.lead, Bounded)
    assert reading.lead.value == pytest.approx(0.5)
    assert reading.lead.low < 0 < reading.lead.high
    # Denied: i5 (E1 sees it), i6 (E1 sees it) and i8; of what was made, the open evaluators see none of them.
    assert (reading.false_positives["closed"].value, reading.false_positives["closed"].items) == (
        pytest.approx(2 / 3),
        3,
    )  # type: ignore[union-attr]
    assert reading.false_positives["open"].value == 0  # type: ignore[union-attr]
    assert reading.missed["closed"].value == 0  # type: ignore[union-attr]
    assert isinstance(reading.agreement, Omitted)


def test_several_judges_count_as_one_look_at_each_item() -> None:
    key = key_of(*[("reconstruction", True, True)] * 4, *[("true-positive", True, True), ("wrong-class", False, False)])
    one = answered("yes", "yes", "no", "no", "yes", "no")
    other = answered("yes", "no", "no", None, "yes", "no", judge="bo")
    reading = read(key, {"ada": one, "bo": other})
    items = next(each for each in reading.kinds if each.kind == "reconstruction")
    assert items.yes.value == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert (items.yes.low, items.yes.high) == wilson(1.5, 4)
    assert reading.false_positives["closed"].items == 2  # type: ignore[union-attr]  # a draw is no majority
    assert reading.agreement.measure == "Cohen's kappa"  # type: ignore[union-attr]
    three = read(key, {"ada": one, "bo": other, "cy": one})
    assert three.agreement.measure == "Krippendorff's alpha"  # type: ignore[union-attr]
    assert three.judges == {"ada": 6, "bo": 5, "cy": 6}


def test_kappa_of_cohens_textbook_table() -> None:
    pairs = [(0, 0)] * 20 + [(0, 1)] * 5 + [(1, 0)] * 10 + [(1, 1)] * 15
    answers = np.array(pairs).T
    assert cohens_kappa(answers, 2) == pytest.approx(0.4)
    left_out = np.concatenate([answers, [[0, MISSING], [MISSING, 1]]], 1)
    assert cohens_kappa(left_out, 2) == pytest.approx(0.4)
    assert isinstance(cohens_kappa(np.zeros((2, 5), np.int64), 2), Omitted)
    low, high = interval(cohens_kappa, answers, 2, np.random.default_rng(0))  # type: ignore[misc]
    assert -0.1 < low < 0.4 < high < 0.8


def test_alpha_of_krippendorffs_own_example() -> None:
    # Four observers, twelve units, five values, some missing: alpha is .743 (Krippendorff 2011, section C, nominal).
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
    assert krippendorffs_alpha(np.array(table) - 1, 5) == pytest.approx(0.743, abs=5e-4)
    agreed = np.array([[0, 1, 0, 1]] * 3)
    assert krippendorffs_alpha(agreed, 2) == 1
    assert isinstance(krippendorffs_alpha(np.array([[0, MISSING], [MISSING, 1]]), 2), Omitted)


def test_alpha_of_two_judges_who_guess_is_about_zero() -> None:
    guesses = np.random.default_rng(1).integers(3, size=(3, 4000))
    assert abs(krippendorffs_alpha(guesses, 3)) < 0.03  # type: ignore[operator,arg-type]
    assert abs(cohens_kappa(guesses[:2], 3)) < 0.03  # type: ignore[operator,arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sheet": "another"}, "answers to another page"),
        ({"version": 2}, "answers of format 2"),
        ({"answers": []}, "holds no answer"),
        ({"answers": [{"item": "i9", "answer": "yes"}]}, "item 'i9' is not on this page"),
        ({"answers": [{"item": "i0", "answer": "yes"}, {"item": "i0", "answer": "no"}]}, "item 'i0' is answered twice"),
        ({"answers": [{"item": "i0", "answer": "maybe"}]}, r"'answers\.0\.answer'"),
        ({"answers": [{"item": "i0"}]}, r"'answers\.0\.answer'"),
        ({"answers": "yes"}, "'answers'"),
        ({"judge": "x" * 81}, "longer than 80"),
        ({"kind": "reconstruction"}, "kind is not of a Answers"),
    ],
)
def test_answers_that_are_none_are_refused_by_name(change: dict[str, object], complaint: str, tmp_path: Path) -> None:
    key = key_of(("reconstruction", True, True))
    path = tmp_path / "answers-ada.json"
    write_json(path, answered("yes").plain())
    assert read_answers(path, key) == answered("yes")
    write_json(path, answered("yes").plain() | change)
    with pytest.raises(ConfigError, match=complaint) as raised:
        read_answers(path, key)
    assert str(path) in str(raised.value)


def test_no_file_no_json_and_one_judge_twice(tmp_path: Path) -> None:
    key, path = key_of(("reconstruction", True, True)), tmp_path / "a.json"
    with pytest.raises(ConfigError, match="there is no such file"):
        read_answers(path, key)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"not valid JSON.*no file of answers"):
        read_answers(path, key)
    write_json(path, answered("yes", judge=" ").plain())
    write_json(tmp_path / "b.json", answered("yes").plain())
    assert list(named([path, tmp_path / "b.json"], key)) == ["a", "ada"]
    with pytest.raises(ConfigError, match="a second file of judge 'ada'"):
        named([tmp_path / "b.json", tmp_path / "b.json"], key)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module with judges onto the import path; return its name."""
    (tmp_path / "judging_programs.py").write_text(
        "def bright(image, real):\n"
        "    assert image.shape == (1, 32, 32) and real.shape == (4, 1, 32, 32)\n"
        "    assert 0 <= float(image.min()) and float(image.max()) <= 1\n"
        "    return 'yes' if image.mean() > real.mean() else 'no'\n"
        "def unsettled(image, real):\n    return 'perhaps'\n"
        "def failing(image, real):\n    raise ValueError('no weights')\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "judging_programs"
    sys.modules.pop("judging_programs", None)


def test_a_program_judges_and_its_answers_are_read(
    module: str, sheet: SheetFiles, attacked_run: Run, tmp_path: Path
) -> None:
    printed = command("judge", attacked_run.path, "--out", sheet.root, "--per-kind", 4, "--with", f"{module}:bright")
    assert "1 judge, right on" in printed
    assert f"{module}:bright" in printed
    figures = read_json(sheet.reading)["reading"]
    assert figures["judges"] == {f"{module}:bright": 20}
    assert {each["kind"] for each in figures["kinds"]} == set(KINDS)
    for name, kind, complaint in (
        ("unsettled", ConfigError, "answered 'perhaps'; it must be one of yes, no, unsure"),
        ("number", ConfigError, "is no function"),
        ("nothing", ConfigError, "has no 'nothing'"),
        ("failing", TheirError, "no weights"),
    ):
        with pytest.raises(kind, match=complaint):
            answer_with(f"{module}:{name}", sheet)


def test_the_command_makes_the_page_and_reads_two_judges(sheet: SheetFiles, attacked_run: Run, tmp_path: Path) -> None:
    printed = command("judge", attacked_run.path, "--out", sheet.root, "--per-kind", 4)
    assert f"{sheet.page}: 20 questions" in printed
    key = read_key(sheet.key)
    files = []
    for name, wrong in (("ada", 0), ("bo", 3)):
        right = ["yes" if item.kind in ("true-positive", "reconstruction") else "no" for item in key.items]
        right[:wrong] = ["unsure"] * wrong
        given = [Given(item.id, answer) for item, answer in zip(key.items, right, strict=True)]  # type: ignore[arg-type]
        files.append(tmp_path / f"{name}.json")
        write_json(files[-1], Answers(1, key.sheet, name, tuple(given)).plain())
    printed = command("judge", attacked_run.path, "--out", sheet.root, "--read", *files)
    assert "2 judges, right on" in printed
    assert "Cohen's kappa" in printed
    figures = read_json(sheet.reading)["reading"]
    assert figures["by_judge"]["ada"]["value"] == 1
    assert figures["lead"]["value"] > 0.5
    assert "What people see" not in attacked_run.files.report.read_text()  # the page lies elsewhere, so do the figures
    with pytest.raises(ConfigError, match="follow --read"):
        command("judge", attacked_run.path, files[0])
    with pytest.raises(ConfigError, match="exclude each other"):
        command("judge", attacked_run.path, "--read", files[0], "--with", "a:b")
    with pytest.raises(StageError, match="make the page first"):
        command("judge", attacked_run.path, "--out", tmp_path / "nowhere", "--read", files[0])


def people_of(run: Run) -> str:
    """Return the text of the report's section about people."""
    sections = page_of(run).all("section")
    return next(" ".join(text.split()) for attributes, text, _ in sections if attributes.get("id") == "people")


def test_the_report_shows_what_people_said_of_its_images_and_of_no_others(attacked_run: Run, tmp_path: Path) -> None:
    # Fails if a section is there that nobody's answers stand behind, or answers about images of an earlier attack.
    run = Run(shutil.copytree(attacked_run.path, tmp_path / "run"))
    files = run.files.sheet
    key = make_sheet(run, files, per_kind=2)
    given = tuple(Given(item.id, "yes" if item.kind == "true-positive" else "no") for item in key.items)
    write_json(tmp_path / "ada.json", Answers(1, key.sheet, "ada", given).plain())
    printed = command("judge", run.path, "--read", tmp_path / "ada.json")
    assert "section “What people see”" in printed
    section = people_of(run)
    assert "1 judge, right on 100 %" in section
    assert "Attack “gmi”, round 3" in section
    for name, figure in read_sheet(files, [tmp_path / "ada.json"]).false_positives.items():
        assert isinstance(figure, Share)  # nobody sees a class in what was made
        assert f"false positives, {name}" in section
        assert f"{figure.value:.0%}".replace("%", " %") in section
    people = read_people(files.reading)
    assert people_figures(people, "another").tables == []
    write_json(files.reading, read_json(files.reading) | {"inversion": "gmi/of-an-earlier-attack"})
    command("report", run.path)
    assert "other images than this page is about" in people_of(run)
