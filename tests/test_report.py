"""The report: its structure, and what its page says against the run's own files."""

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import merged
from PIL import Image
from report_page import Page, page_of

from auditor.evaluators.embedding import fit_embedding
from auditor.evidence import Exhibit, read_exhibit
from auditor.marks import OVERLAP
from auditor.nearest import KINDS
from fedinverse.data.source import unit
from fedinverse.layout import RECONSTRUCTIONS
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.storage import read_json, write_json
from pipeline.provenance import run_hash
from pipeline.stages.inversions import finished
from pipeline.stages.report import report
from report.text import as_sentence, readable


def pixels(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def attacked(run: Run, attack: str, server_round: int) -> Exhibit:
    for each in finished(run):
        if (each.attack, each.target.arm, each.target.round) == (attack, "A", server_round):
            return read_exhibit(each.inversion.path / RECONSTRUCTIONS, "A", "with_victim", server_round, attack)
    raise AssertionError("not attacked")


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


def test_a_run_without_attacks_gets_a_page_about_its_utility(unattacked_run: Run) -> None:
    page = page_of(unattacked_run)
    assert "No attack was run" in page.all("h1")[0][1]
    assert "says nothing about privacy" in page.all("footer")[0][1]
    assert page.all("img") == []
    assert page.all("script") == []


def test_the_verdict_stands_on_top_with_its_reasons(attacked_run: Run) -> None:
    verdict = read_json(attacked_run.path / "verdict.json")
    page = page_of(attacked_run)
    title, header, main = page.all("h1")[0][1], page.all("header")[0][1], page.all("main")[0][1]
    assert title.startswith("Inconclusive: this audit cannot tell")
    assert not re.search(r"gmi|\bB\d|round|leakage", title)
    assert "public images, picked with the model's help" in header
    assert "What to do next" in header
    assert all(readable(way)[1:] in header for way in verdict["settle"])
    assert readable(verdict["sentence"]) in main
    assert all(as_sentence(reason) in main for reason in verdict["reasons"])


def test_the_pictures_stand_under_the_verdict_and_the_rest_is_decoded_lazily(attacked_run: Run) -> None:
    images = page_of(attacked_run).all("img")
    top = [attributes for attributes, _, around in images if "header" in around]
    assert [str(each["alt"]).split(" of class")[0] for each in top][::2] == [
        "Reconstruction",
        "Nearest image",
        "Image the attacker holds, nearest to the reconstruction",
    ]
    below = [attributes for attributes, _, around in images if "header" not in around]
    assert below
    assert all(each["decoding"] == "async" for each, _, _ in images if each in top)
    assert all(each.get("loading") == "lazy" for each in below)


def test_the_page_says_where_its_figures_come_from(attacked_run: Run, tmp_path: Path) -> None:
    header = page_of(attacked_run).all("header")[0][1]
    for part in ("UTC", "torch", "flwr", "private mnist, 400 images", "public glyphs, 200 images"):
        assert part in header
    same = run_hash(attacked_run)
    assert same in header
    shutil.copytree(attacked_run.path, tmp_path / "copy")
    assert run_hash(Run(tmp_path / "copy")) == same
    (tmp_path / "copy" / "audit" / "scores.parquet").write_bytes(b"other scores")
    assert run_hash(Run(tmp_path / "copy")) != same


def test_every_table_explains_its_columns(either: Run) -> None:
    page = page_of(either)
    explained = {text for _, text, _ in page.all("dt")}
    for metric in ("attack accuracy", "corrected", "detectable", "target queries") if page.all("img") else ():
        assert metric in explained
    assert {"loss", "rounds trained"} <= explained


def test_overlap_is_marked_beside_the_verdict_attacked_or_not(either: Run, tmp_path: Path) -> None:
    assert OVERLAP not in page_of(either).all("header")[0][1]
    shutil.copytree(either.path, tmp_path / "overlapping")
    config = read_json(tmp_path / "overlapping" / "config.json")
    write_json(tmp_path / "overlapping" / "config.json", merged(config, {"data": {"allow_overlap": True}}))
    text = report(Run(tmp_path / "overlapping")).read_text()
    assert OVERLAP in Page(text).all("header")[0][1]


def test_the_picture_holds_the_verdicts_figures(attacked_run: Run) -> None:
    verdict, page = read_json(attacked_run.path / "verdict.json"), page_of(attacked_run)
    (data,) = (text for attributes, text, _ in page.all("script") if attributes.get("type") == "application/json")
    first, second = json.loads(data)
    for arms, attack in ((first, "gmi"), (second, "second")):
        points = [point for point in verdict["points"] if point["attack"] == attack]
        assert [point["round"] for point in points] == [2, 3]
        for point in points:
            for arm, score in point["arms"].items():
                wanted = [score["value"], score["low"], score["high"]] if "value" in score else None
                assert arms[arm].get(str(point["round"])) == wanted
        known = {str(line.round): line.victim_accuracy for line in attacked_run.recorded_rounds("with_victim")}
        assert {number: value for number, (value, _, _) in arms["known"].items()} == known


def test_every_attacked_class_shows_the_best_reconstruction_and_the_nearest_images(attacked_run: Run) -> None:
    exhibit = attacked(attacked_run, "gmi", 3)
    images = {
        str(attributes["alt"]): pixels(str(attributes["src"])) for attributes, _, _ in page_of(attacked_run).all("img")
    }
    embedding = fit_embedding(part_of(attacked_run, "vault").images)
    public = attacked_run.pools["public"].tensor()
    for label in (0, 1, 2):
        mine = (exhibit.labels == label).nonzero().flatten()
        best = exhibit.images[mine[exhibit.confidence[mine].argmax()]][None]
        expected = {"made": best[0].mul(255).round().to(torch.uint8)}
        for part in ("train", "reserve"):
            among = part_of(attacked_run, part)
            of_class = among.images[among.labels == label]
            expected[part] = of_class[torch.cdist(embedding(best), embedding(unit(of_class))).argmin()]
        attackers = [*public, *_shard_of_attacker(attacked_run)]
        distance = torch.cdist(embedding(best), embedding(unit(torch.stack(attackers))))
        expected["public"] = attackers[int(distance.argmin())]
        for kind, (_, alternative) in KINDS.items():
            assert np.array_equal(images[alternative.format(label)], expected[kind][0].numpy()), (label, kind)


def _shard_of_attacker(run: Run) -> list[torch.Tensor]:
    return list(torch.from_numpy(np.load(run.path / "attacker" / "shard" / "images.npy")))


def test_clients_and_cohorts_are_listed_with_what_they_reported(attacked_run: Run) -> None:
    tables = dict(
        zip(
            (text for _, text, _ in page_of(attacked_run).all("caption")),
            page_of(attacked_run).all("table"),
            strict=True,
        )
    )
    (clients,) = (text for caption, (_, text, _) in tables.items() if caption.startswith("Clients"))
    assert clients.count("client ") == 4
    assert clients.count("neg_label_smoothing") == 2  # half of the four, the attacker is never drawn
    assert "attacker" in clients
    assert "victim" in clients
    (cohorts,) = (text for caption, (_, text, _) in tables.items() if caption.startswith("Cohorts"))
    assert "50% drawn" in cohorts
