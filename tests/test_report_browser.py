"""The report in a real browser: drawn, read, switched by mouse and keyboard, enlarged, printed."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from fedinverse.errors import StageError
from fedinverse.run import Run
from fedinverse.storage import read_json
from report.pdf import print_pdf
from report.run.curve import Canvas
from report.run.page import WIDE


def is_visible(browser: Browser, selector: str) -> bool:
    """Return whether the first element that fits ``selector`` is drawn."""
    visible: bool = browser.ask(f"document.querySelector({json.dumps(selector)}).getClientRects().length > 0")
    return visible


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


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_holds_sentence_pictures_and_qualification(
    width: int, height: int, attacked_run: Run, browser: Browser
) -> None:
    browser.open(attacked_run.path / "report.html", width, height)
    for part in ("h1", ".strip img", ".strip figure:last-child img:last-child", ".qualification"):
        bottom = browser.ask(f"document.querySelector('{part}').getBoundingClientRect().bottom")
        assert 0 < bottom <= height, part
    sharp = "[...document.querySelectorAll('.strip img')].every((image) => image.complete && image.naturalWidth > 0)"
    assert browser.ask(sharp)


def test_a_phone_breaks_no_word_and_shows_what_controls_are(attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 390, 844)
    cut = "[...document.querySelectorAll('figcaption, dt, h1, h2')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
    assert browser.ask(f"{cut}.map((e) => e.textContent)") == []
    assert browser.ask("""[...document.querySelectorAll('.explained td:last-child')].every((e) => {
        const box = e.getBoundingClientRect(); return box.left >= 0 && box.right <= 390 && box.width > 200; })""")


def test_every_line_has_a_swatch_of_its_own(attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 1280, 800)
    looks = browser.ask("""[...document.querySelectorAll('[data-chart="0"] .key')].map((e) => {
        const line = getComputedStyle(e.querySelector('.line'));
        return [getComputedStyle(e).color, line.strokeDasharray, line.strokeWidth].join(' '); })""")
    assert len(set(looks)) == len(looks) > 5
    assert browser.ask(
        "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.querySelector('#rounds .scroll'))"
    )


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
def test_every_text_has_the_contrast_that_wcag_aa_asks_for(scheme: str, attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 1280, 900, scheme=scheme)
    assert browser.ask(CONTRAST) == []


@pytest.mark.parametrize("script", [True, False])
def test_a_box_switches_its_line_by_mouse_and_by_keyboard_even_without_script(
    script: bool, attacked_run: Run, browser: Browser
) -> None:
    browser.open(attacked_run.path / "report.html", 1280, 900)
    if not script:
        page = attacked_run.path / "without-script.html"
        page.write_text(
            re.sub(r"<script>.*?</script>", "", (attacked_run.path / "report.html").read_text(), flags=re.S)
        )
        browser.open(page, 1280, 900)
    assert is_visible(browser, LINE.format("A"))
    assert not is_visible(browser, LINE.format("B0"))
    browser.click(BOX.format("A"))
    browser.click(BOX.format("B0"))
    assert not is_visible(browser, LINE.format("A"))
    assert is_visible(browser, LINE.format("B0"))
    browser.press(" ", 32, " ")
    assert not is_visible(browser, LINE.format("B0"))
    assert is_visible(browser, '[data-chart="1"] .plot.wide [data-arm="A"]')
    browser.click('[data-attack="1"]')
    assert not is_visible(browser, '[data-chart="1"]')
    assert is_visible(browser, '[data-chart="0"]')


def test_hovering_and_the_slider_read_a_rounds_figures(attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 1280, 900)
    verdict = read_json(attacked_run.path / "verdict.json")
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
    assert browser.ask(at) == "2"  # the nearest that was attacked: the others have no figures
    browser.ask("""document.querySelector('[data-chart="0"] input[type=range]').focus()""")
    browser.press("ArrowRight", 39)
    assert browser.ask(at) == "3"
    browser.press("ArrowLeft", 37)
    assert browser.ask(at) == "2"
    assert browser.ask(said).startswith(wanted)


def test_a_chart_without_rounds_leaves_the_page_working(attacked_run: Run, tmp_path: Path, browser: Browser) -> None:
    """As the ROC curves of membership, which stand above the charts that have a slider."""
    page = tmp_path / "report.html"
    text = attacked_run.files.report.read_text()
    page.write_text(text.replace('<section id="rounds"', '<figure class="chart roc"></figure><section id="rounds"', 1))
    browser.open(page, 1280, 900)
    assert browser.complaints == []
    browser.click(".cell img")
    assert browser.ask("document.getElementById('enlarged').open")


def test_a_class_is_enlarged_by_click_and_by_enter_and_closed_by_escape(attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 390, 844)
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


def test_it_prints_with_its_folds_open_and_without_its_controls(attacked_run: Run, browser: Browser) -> None:
    browser.open(attacked_run.path / "report.html", 1280, 900)
    document = browser.print()
    assert document.startswith(b"%PDF")
    assert len(document) > 20_000
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", document)) <= 8
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert not is_visible(browser, "nav")
    assert not is_visible(browser, ".enlarge")
    assert is_visible(browser, LINE.format("A"))
    browser.ask("dispatchEvent(new Event('beforeprint'))")
    assert browser.ask("[...document.querySelectorAll('details:not(.more, .aside)')].every((fold) => fold.open)")
    browser.call("Emulation.setEmulatedMedia", media="screen")


def test_one_command_prints_a_pdf(attacked_run: Run, tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(attacked_run.files.report.read_bytes())
    pdf = print_pdf(page)
    assert pdf == tmp_path / "report.pdf"
    assert pdf.read_bytes().startswith(b"%PDF")


def test_without_a_browser_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FEDINVERSE_CHROMIUM", raising=False)
    with pytest.raises(StageError, match="install Chromium"):
        print_pdf(tmp_path / "report.html")
