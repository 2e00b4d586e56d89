"""The report: what its page says against the run's own files, its structure, and the page in a real browser."""

import base64
import io
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from browser import NAMES, Browser, find_browser
from conftest import TINY, merged
from PIL import Image

from attacker.inversion import RECONSTRUCTIONS
from auditor.embedding import fit_embedding
from auditor.evidence import Exhibit, read_exhibit
from auditor.report.curve import Canvas, chart
from auditor.report.gallery import LOSSLESS_BYTES, encoded, gallery
from auditor.report.nearest import KINDS, Found, best_per_class
from auditor.report.page import WIDE, Figures, Leakage, render
from auditor.report.partition import partition
from auditor.report.tables import FOLD, Table, controls
from auditor.table import ARMS
from fedinverse.data.source import unit
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.storage import read_json, write_json
from pipeline.experiment import load_experiment
from pipeline.invert import inversions_of
from pipeline.report import OVERLAP, report
from pipeline.stages import run_all

GMI = TINY["attacks"]["gmi"]
TWO_ATTACKS: dict[str, Any] = {
    "name": "two",
    "attacker": {"rounds": [2, 3], "classes": [0, 1, 2], "processes": 1},
    "attacks": {"gmi": GMI, "second": {**GMI, "iterations": 2}},
    "audit": {"without_victim": True, "primary": {"attack": "gmi"}},
    "cohorts": [{"defence": "neg_label_smoothing", "fraction": 0.5}],
}
VOID = {"meta", "link", "img", "input", "br", "path", "line", "rect", "circle"}


def finished(changes: dict[str, Any], where: Path) -> Run:
    """Run the tiny experiment with ``changes`` and return it."""
    (where / "tiny.toml").write_text(tomli_w.dumps(merged(TINY, changes)))
    return Run(run_all(load_experiment(str(where / "tiny.toml"), [], where / "runs"), resume=False).parent)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished(TWO_ATTACKS, tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def unattacked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"name": "quiet", "attacks": None, "population": {"malicious": 0}}
    return finished(changes, tmp_path_factory.mktemp("unattacked"))


@pytest.fixture(params=["run", "unattacked"])
def either(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, its text, tags around it). What is not well nested is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.elements[place][0] for place in self._open)
        self.elements.append((tag, dict(attrs), [], around))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.elements[place][0] for place in self._open)
        self.elements.append((tag, dict(attrs), [], around))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str, tuple[str, ...]]]:
        """Return (attributes, text, tags around) of every ``tag``."""
        return [
            (attributes, "".join(text).strip(), around)
            for name, attributes, text, around in self.elements
            if name == tag
        ]


def page_of(run: Run) -> Page:
    return Page((run.path / "report.html").read_text())


def pixels(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def attacked(run: Run, attack: str, server_round: int) -> Exhibit:
    for (label, weights), inversion in inversions_of(run).items():
        if label == attack and weights == run.spool("with_victim") / f"round-{server_round:04d}.safetensors":
            return read_exhibit(inversion.path / RECONSTRUCTIONS, "A", "with_victim", server_round, attack)
    raise AssertionError("not attacked")


# ------------------------------------------------------------------------------------------------- structure


def test_nothing_is_fetched_and_the_page_is_small(either: Run) -> None:
    text = (either.path / "report.html").read_text()
    page = Page(text)
    for tag, attributes, _, _ in page.elements:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert not re.findall(r"https?://|url\(|@import|fetch\(|XMLHttpRequest|importScripts", text)
    assert len(text) < 3_000_000


def test_the_page_has_landmarks_headings_in_order_and_names_for_everything(either: Run) -> None:
    page = page_of(either)
    for landmark in ("header", "nav", "main", "footer", "title"):
        assert len(page.all(landmark)) == 1
    assert page.all("html")[0][0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes, _, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for attributes, _, _ in page.all("a")]
    assert targets
    assert {str(target)[1:] for target in targets} <= set(ids)
    levels = [
        int(tag[1]) for tag, _, _, around in page.elements if re.fullmatch("h[1-6]", tag) and "dialog" not in around
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("alt") for attributes, _, _ in page.all("img"))
    assert all("label" in around or attributes.get("aria-label") for attributes, _, around in page.all("input"))
    assert all(text for attributes, text, _ in page.all("button"))
    tables, captions = page.all("table"), page.all("caption")
    assert tables
    assert len(captions) == len(tables)
    assert all(text for _, text, _ in captions)
    assert all(attributes.get("scope") in ("row", "col") for attributes, _, _ in page.all("th"))


def test_a_run_without_attacks_gets_a_page_about_its_utility(unattacked: Run) -> None:
    page = page_of(unattacked)
    assert "No attack was run" in page.all("h1")[0][1]
    assert "says nothing about privacy" in page.all("footer")[0][1]
    assert page.all("img") == []
    assert page.all("script") == []


def test_the_verdict_stands_on_top_with_its_reasons(run: Run) -> None:
    verdict = read_json(run.path / "verdict.json")
    page = page_of(run)
    assert page.all("h1")[0][1] == verdict["sentence"]
    header = page.all("header")[0][1]
    assert all(reason[1:] in header for reason in verdict["reasons"])


def test_overlap_is_marked_beside_the_verdict_attacked_or_not(either: Run, tmp_path: Path) -> None:
    assert OVERLAP not in page_of(either).all("header")[0][1]
    shutil.copytree(either.path, tmp_path / "overlapping")
    config = read_json(tmp_path / "overlapping" / "config.json")
    write_json(tmp_path / "overlapping" / "config.json", merged(config, {"data": {"allow_overlap": True}}))
    text = report(Run(tmp_path / "overlapping")).read_text()
    assert OVERLAP in Page(text).all("header")[0][1]


def test_the_picture_holds_the_verdicts_figures(run: Run) -> None:
    verdict, page = read_json(run.path / "verdict.json"), page_of(run)
    (data,) = (text for attributes, text, _ in page.all("script") if attributes.get("type") == "application/json")
    first, second = json.loads(data)
    for arms, attack in ((first, "gmi"), (second, "second")):
        points = [point for point in verdict["points"] if point["attack"] == attack]
        assert [point["round"] for point in points] == [2, 3]
        for point in points:
            for arm, found in point["arms"].items():
                assert arms[arm][str(point["round"])] == [found["value"], found["low"], found["high"]]
        known = {str(line["round"]): line["victim-accuracy"] for line in run.recorded_rounds("with_victim")}
        assert {number: value for number, (value, _, _) in arms["known"].items()} == known


def test_every_attacked_class_shows_the_best_reconstruction_and_the_nearest_images(run: Run) -> None:
    shown = attacked(run, "gmi", 3)
    images = {
        str(attributes["alt"]): pixels(str(attributes["src"])) for attributes, _, _ in page_of(run).all("img")[:12]
    }
    embedding = fit_embedding(part_of(run, "vault").images)
    public = run.pools["public"].tensor()
    for label in (0, 1, 2):
        mine = (shown.labels == label).nonzero().flatten()
        best = shown.images[mine[shown.confidence[mine].argmax()]][None]
        expected = {"made": best[0].mul(255).round().to(torch.uint8)}
        for part in ("train", "reserve"):
            among = part_of(run, part)
            own = among.images[among.labels == label]
            expected[part] = own[torch.cdist(embedding(best), embedding(unit(own))).argmin()]
        attackers = [*public, *_shard_of_attacker(run)]
        distance = torch.cdist(embedding(best), embedding(unit(torch.stack(attackers))))
        expected["public"] = attackers[int(distance.argmin())]
        for kind, (_, alternative) in KINDS.items():
            assert np.array_equal(images[alternative.format(label)], expected[kind][0].numpy()), (label, kind)


def _shard_of_attacker(run: Run) -> list[torch.Tensor]:
    return list(torch.from_numpy(np.load(run.path / "attacker" / "shard" / "images.npy")))


def test_clients_and_cohorts_are_listed_with_what_they_reported(run: Run) -> None:
    tables = dict(zip((text for _, text, _ in page_of(run).all("caption")), page_of(run).all("table"), strict=True))
    (clients,) = (text for caption, (_, text, _) in tables.items() if caption.startswith("Clients"))
    assert clients.count("client ") == 4
    assert clients.count("neg_label_smoothing") == 2  # half of the four, the attacker is never drawn
    assert "attacker" in clients
    assert "victim" in clients
    (cohorts,) = (text for caption, (_, text, _) in tables.items() if caption.startswith("Cohorts"))
    assert "50% drawn" in cohorts


# --------------------------------------------------------------------------------------- parts, without a run


def made(labels: list[int], confidence: list[float], failed: list[bool]) -> Exhibit:
    images = torch.rand(len(labels), 1, 32, 32)
    return Exhibit(
        "A", "with_victim", 1, "gmi", images, torch.tensor(labels), torch.tensor(confidence), torch.tensor(failed)
    )


def test_the_attacker_keeps_the_surest_sound_reconstruction() -> None:
    shown = made([1, 0, 0, 1, 2], [0.2, 0.9, 0.5, 0.8, 1.0], [False, True, False, False, True])
    assert best_per_class(shown).tolist() == [2, 3]


def found_class(label: int, train: float, public: float) -> Found:
    images = {kind: torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for kind in KINDS}
    return Found(label, images, {"train": train, "reserve": 1.0, "public": public})


def test_classes_are_ranked_by_success_the_victims_first_and_failures_say_so() -> None:
    found = [found_class(0, 0.9, 1.0), found_class(1, 0.5, 0.4), found_class(3, 0.2, 1.0)]
    success = {0: 0.5, 1: 0.5, 2: 0.0, 3: 1.0}
    shown = gallery("gmi", 1, found, encoded(found), success, ["a", "b", "c", "d"], [0, 1, 2])
    assert [cell.name for cell in shown.victims] == ["b", "a", "c"]
    assert [cell.name for cell in shown.others] == ["d"]
    assert [cell.remark for cell in shown.victims] == [
        "nearer to an image of the attacker's",
        "",
        "every reconstruction failed",
    ]
    assert shown.victims[2].pictures == []
    assert [len(cell.pictures) for cell in shown.victims[:2]] == [4, 4]


def point(**arms: Any) -> dict[str, Any]:
    every = {arm: {"omitted": "not asked for"} for arm in ARMS} | arms
    return {"attack": "gmi", "round": 2, "arms": every}


def test_an_arm_that_was_not_run_has_no_line_and_says_why() -> None:
    points = [point(A={"value": 0.5, "low": 0.2, "high": 0.8, "marks": ()})]
    drawn = chart(points, "gmi", 2, {0: 0.1, 1: 0.4, 2: 0.9}, 0.5)
    lines = {line.arm: line for line in drawn.series}
    assert lines["A"].shown
    assert not lines["B2"].shown
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
    found = [Found(label, pictures, {"train": 0.5, "reserve": 0.6, "public": 0.7}) for label in range(1000)]
    uris = encoded(found)
    assert sum(len(uri) for each in uris[0] for uri in each.values()) * 3 / 4 < LOSSLESS_BYTES * 1.2
    assert not uris[1]
    names = [f"person {label}" for label in range(1000)]
    table = Table("By class", ["class", "recognised"], [[name, "100 %"] for name in names])
    shown = gallery("gmi", 1, found, uris, dict.fromkeys(range(1000), 1.0), names, range(1000))
    text = render(
        Figures(
            title="many",
            outcome="leak",
            headline="Leak: much </script> of it.",
            finding="",
            marks=[],
            notes=[],
            facts=[],
            leakage=Leakage([], [shown], [], [], [], table, table, None, [], [], table),
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


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None:
        reason = f"none of {', '.join(NAMES)} is in PATH and FEDINVERSE_CHROMIUM names no browser"
        print(reason)
        pytest.skip(reason)
    with Browser(executable) as opened:
        yield opened


def shown(browser: Browser, selector: str) -> bool:
    """Return whether the first element that fits ``selector`` is drawn."""
    found: bool = browser.ask(f"document.querySelector({json.dumps(selector)}).getClientRects().length > 0")
    return found


LINE = '[data-chart="0"] .plot.wide [data-arm="{}"]'
BOX = '[data-chart="0"] input[value="{}"]'


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_is_drawn_without_complaint_and_never_wider_than_the_window(
    width: int, height: int, scheme: str, either: Run, browser: Browser
) -> None:
    browser.open(either.path / "report.html", width, height, scheme=scheme)
    picture = Image.open(io.BytesIO(browser.picture()))
    assert picture.size == (width, height)
    grey, counts = np.unique(np.asarray(picture.convert("L")), return_counts=True)
    assert len(grey) > 50  # text, lines, not a blank sheet
    assert (grey[counts.argmax()] > 240) == (scheme == "light")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith("data:")] == [
        (either.path / "report.html").as_uri()
    ]


CONTRAST = """(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (c) => c.slice(0, 3).reduce((sum, v, i) => sum + weights[i] * linear(v / 255), 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const c = numbers(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; }
    return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    const says = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const style = getComputedStyle(e);
    if (!says || !e.getClientRects().length || style.fontSize === "0px") continue;
    const svg = e instanceof SVGElement;
    const [a, b] = [light(numbers(svg ? style.fill : style.color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(e.outerHTML.slice(0, 80));
  }
  return low;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_aa_asks_for(scheme: str, run: Run, browser: Browser) -> None:
    browser.open(run.path / "report.html", 1280, 900, scheme=scheme)
    assert browser.ask(CONTRAST) == []


@pytest.mark.parametrize("script", [True, False])
def test_a_box_switches_its_line_by_mouse_and_by_keyboard_even_without_script(
    script: bool, run: Run, browser: Browser
) -> None:
    browser.open(run.path / "report.html", 1280, 900)
    if not script:
        page = run.path / "without-script.html"
        page.write_text(re.sub(r"<script>.*?</script>", "", (run.path / "report.html").read_text(), flags=re.S))
        browser.open(page, 1280, 900)
    assert shown(browser, LINE.format("A"))
    assert not shown(browser, LINE.format("B0"))
    browser.click(BOX.format("A"))
    browser.click(BOX.format("B0"))
    assert not shown(browser, LINE.format("A"))
    assert shown(browser, LINE.format("B0"))
    browser.press(" ", 32, " ")
    assert not shown(browser, LINE.format("B0"))
    assert shown(browser, '[data-chart="1"] .plot.wide [data-arm="A"]')
    browser.click('[data-attack="1"]')
    assert not shown(browser, '[data-chart="1"]')
    assert shown(browser, '[data-chart="0"]')


def test_hovering_and_the_slider_read_a_rounds_figures(run: Run, browser: Browser) -> None:
    browser.open(run.path / "report.html", 1280, 900)
    verdict = read_json(run.path / "verdict.json")
    (two,) = (each for each in verdict["points"] if (each["attack"], each["round"]) == ("gmi", 2))
    said = """document.querySelector('[data-chart="0"] [data-figure="B0"]').textContent"""
    at = """document.querySelector('[data-chart="0"] output').textContent"""
    wanted = f"{100 * two['arms']['B0']['value']:.0f} %"
    browser.ask("""document.querySelector('[data-chart="0"] .wide').scrollIntoView({behavior: "instant"})""")
    x, y, width = browser.ask(
        """(() => { const b = document.querySelector('[data-chart="0"] .wide').getBoundingClientRect();
        return [b.x, b.y + b.height / 2, b.width]; })()"""
    )
    assert browser.ask(at) == "3"
    canvas = Canvas(*WIDE, (0, 1, 2, 3))
    browser.mouse("mouseMoved", x + width * canvas.x(2) / canvas.width, y)
    assert browser.ask(at) == "2"
    assert browser.ask(said).startswith(wanted)
    browser.mouse("mouseMoved", x + width * canvas.x(1.1) / canvas.width, y)
    assert (browser.ask(at), browser.ask(said)) == ("1", "–")  # a round that was not attacked
    browser.ask("""document.querySelector('[data-chart="0"] input[type=range]').focus()""")
    browser.press("ArrowRight", 39)
    assert browser.ask(at) == "2"
    assert browser.ask(said).startswith(wanted)


def test_a_class_is_enlarged_by_click_and_by_enter_and_closed_by_escape(run: Run, browser: Browser) -> None:
    browser.open(run.path / "report.html", 390, 844)
    is_open, title = "document.getElementById('enlarged').open", "document.querySelector('#enlarged h2').textContent"
    browser.click(".cell img")  # anywhere on the cell
    assert browser.ask(is_open)
    assert browser.ask(title).startswith("Class ")
    assert browser.ask("document.querySelectorAll('#enlarged img').length") == 4
    first, width = (
        browser.ask(title),
        browser.ask("document.querySelector('#enlarged img').getBoundingClientRect().width"),
    )
    assert width > 1.5 * browser.ask("document.querySelector('.cell img').getBoundingClientRect().width")
    assert browser.ask("getComputedStyle(document.querySelector('#enlarged img')).imageRendering") == "pixelated"
    browser.press("ArrowRight", 39)
    assert browser.ask(title) != first
    browser.press("ArrowLeft", 37)
    browser.press("Escape", 27)
    assert not browser.ask(is_open)
    assert browser.ask("document.activeElement.className") == "enlarge"
    browser.press("Enter", 13, "\r")
    assert browser.ask(is_open)
    assert browser.ask(title) == first
    assert browser.complaints == []


def test_it_prints_with_its_folds_open_and_without_its_controls(run: Run, browser: Browser) -> None:
    browser.open(run.path / "report.html", 1280, 900)
    document = browser.print()
    assert document.startswith(b"%PDF")
    assert len(document) > 20_000
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert not shown(browser, "nav")
    assert not shown(browser, ".enlarge")
    assert shown(browser, LINE.format("A"))
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert browser.ask("[...document.querySelectorAll('details:not(.more)')].every((fold) => fold.open)")
    browser.call("Emulation.setEmulatedMedia", media="screen")
