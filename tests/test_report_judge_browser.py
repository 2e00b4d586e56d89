"""The page for people who judge, in a real browser: keys, fingers, a reload, a file taken away and brought back."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser
from test_report_browser import CONTRAST

from auditor.people.answers import read_answers
from auditor.people.sheet import Item, Key
from fedinverse.run import Run
from fedinverse.seeds import generator
from fedinverse.storage import read_json
from pipeline.people import make_sheet, read_sheet
from pipeline.stages.report import report
from report.judge import render

IDS = ("one", "two", "three")
KEY = Key(1, "00ab", "run", "gmi", 1, ("zero",), tuple(Item(i, "reconstruction", 0, True, True) for i in IDS), ())
PLACE, SAID = "document.getElementById('place').textContent", "JSON.stringify(file().answers)"


@pytest.fixture
def page(tmp_path: Path, browser: Browser) -> Path:
    """Return a page of three items, as nobody has opened it before."""
    images = torch.randint(256, (3, 5, 1, 32, 32), dtype=torch.uint8, generator=generator(0, "test"))
    path = tmp_path / "judge.html"
    path.write_text(render(KEY.sheet, IDS, images, 1))
    browser.open(path, 1280, 800)
    browser.ask("localStorage.clear()")
    return path


def begin(browser: Browser, page: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
    browser.open(page, width, height, scheme=scheme)
    browser.ask("document.getElementById('judge').value = 'Ada L.'")
    browser.click("#go")


def answers(browser: Browser) -> list[tuple[str, str]]:
    return [(each["item"], each["answer"]) for each in json.loads(browser.ask(SAID))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_one_screen_holds_a_question_in_both_themes(
    width: int, height: int, scheme: str, page: Path, browser: Browser
) -> None:
    begin(browser, page, width, height, scheme)
    browser.press("y", 89, "y")
    browser.press("ArrowLeft", 37)  # an answered question: its button is pressed in
    assert browser.ask("document.documentElement.scrollWidth") <= width
    for part in ("#place", "#image", "#beside img:last-child", "[data-answer=unsure]"):
        assert 0 < browser.ask(f"document.querySelector('{part}').getBoundingClientRect().bottom") <= height, part
    sharp = "[...document.querySelectorAll('.images img')].every((e) => e.complete && e.naturalWidth === 32)"
    deadline = time.monotonic() + 20
    while not browser.ask(sharp):
        assert time.monotonic() < deadline
    assert browser.ask("Math.min(...[...document.querySelectorAll('#ask button')].map((e) => e.offsetHeight))") >= 44
    assert browser.ask(CONTRAST) == []
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith("data:")] == [page.as_uri()]


def test_keys_answer_go_back_and_change_an_answer(page: Path, browser: Browser) -> None:
    begin(browser, page)
    for key, code in (("y", 89), ("?", 191)):
        browser.press(key, code, key)
    assert browser.ask(PLACE) == "Question 3 of 3, 2 answered"
    browser.press("ArrowLeft", 37)
    assert browser.ask("document.querySelector('[aria-pressed=true]').dataset.answer") == "unsure"
    browser.press("n", 78, "n")
    browser.press("Y", 89, "Y")
    assert browser.ask("document.getElementById('done').checkVisibility()")
    assert browser.ask("document.getElementById('summary').textContent") == (
        "3 of 3 answered: 2 yes, 1 no, 0 cannot tell."
    )
    assert answers(browser) == [("one", "yes"), ("two", "no"), ("three", "yes")]


def test_letters_in_the_name_are_no_answers_and_no_name_is_no_judge(page: Path, browser: Browser) -> None:
    browser.open(page, 1280, 800)
    browser.ask("document.getElementById('judge').focus()")
    browser.click("#go")
    assert browser.ask("document.getElementById('start').checkVisibility()")
    browser.ask("document.getElementById('judge').focus()")
    browser.press("n", 78, "n")
    assert answers(browser) == []


def test_fingers_answer_on_a_phone(page: Path, browser: Browser) -> None:
    begin(browser, page, 390, 844)
    for value in ("no", "yes"):
        x, y = browser.ask(
            f"(() => {{ const b = document.querySelector('[data-answer={value}]').getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
        browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    deadline = time.monotonic() + 20
    while len(answers(browser)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answers(browser) == [("one", "no"), ("two", "yes")]


def test_a_reload_goes_on_where_it_stopped(page: Path, browser: Browser) -> None:
    begin(browser, page)
    browser.press("y", 89, "y")
    assert answers(browser) == [("one", "yes")]
    browser.open(page, 1280, 800)
    deadline = time.monotonic() + 20  # a browser hands what a page has stored to its other processes a moment later
    while browser.ask("document.getElementById('go').textContent") == "Begin" and time.monotonic() < deadline:
        browser.open(page, 1280, 800)
    assert browser.ask("document.getElementById('go').textContent") == "Go on (1 of 3 answered)"
    assert browser.ask("document.getElementById('judge').value") == "Ada L."
    browser.click("#go")
    assert browser.ask(PLACE) == "Question 2 of 3, 1 answered"


def test_the_downloaded_file_is_read_by_the_program_and_by_the_page(
    page: Path, browser: Browser, tmp_path: Path
) -> None:
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    begin(browser, page)
    browser.press("y", 89, "y")
    browser.press("n", 78, "n")
    browser.click("#ask .save")
    path, deadline = tmp_path / "answers-Ada-L-.json", time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.05)
    given = read_answers(path, KEY)
    assert (given.judge, [(each.item, each.answer) for each in given.answers]) == (
        "Ada L.",
        [("one", "yes"), ("two", "no")],
    )
    browser.ask("localStorage.clear()")
    browser.open(page, 1280, 800)
    put_in(browser, read_json(path) | {"sheet": "another"})
    assert browser.ask("document.getElementById('message').textContent") == "That file holds no answers to this page."
    assert answers(browser) == []
    put_in(browser, read_json(path))
    assert browser.ask("document.getElementById('message').hidden")
    assert answers(browser) == [("one", "yes"), ("two", "no")]


def put_in(browser: Browser, document: dict[str, Any]) -> None:
    """Choose a file with ``document`` in the page's file field."""
    browser.ask(
        f"""(async () => {{
        const held = new DataTransfer();
        held.items.add(new File([{json.dumps(json.dumps(document))}], "answers.json"));
        const field = document.getElementById("file");
        field.files = held.files;
        field.dispatchEvent(new Event("change"));
        await new Promise((done) => setTimeout(done, 200)); }})()"""
    )


def test_a_browser_that_keeps_nothing_says_so(page: Path, browser: Browser) -> None:
    browser.open(page, 1280, 800)
    browser.ask("Storage.prototype.setItem = () => { throw new Error('full'); }")
    browser.ask("document.getElementById('judge').value = 'Ada'")
    browser.click("#go")
    assert "Download your answers" in browser.ask("document.getElementById('message').textContent")
    browser.press("n", 78, "n")
    assert answers(browser) == [("one", "no")]


def test_what_was_answered_in_the_browser_stands_in_the_report(
    attacked_run: Run, browser: Browser, tmp_path: Path
) -> None:
    run = Run(shutil.copytree(attacked_run.path, tmp_path / "run"))
    key = make_sheet(run, run.files.sheet, per_kind=1)
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    begin(browser, run.files.sheet.page)
    for item in key.items:
        said = "y" if item.kind == "true-positive" else "n"
        browser.press(said, ord(said.upper()), said)
    browser.click("#done .save")
    path, deadline = tmp_path / "answers-Ada-L-.json", time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, list(tmp_path.iterdir())
        time.sleep(0.05)
    read_sheet(run.files.sheet, [path])
    for width in (1280, 390):
        browser.open(report(run), width, 844)
        assert "1 judge, right on 100" in browser.ask("document.querySelector('#people .lead').textContent")
        assert browser.ask("document.querySelectorAll('#people table').length") == 3
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask(CONTRAST) == []
        assert browser.complaints == []
