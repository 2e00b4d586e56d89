"""People as judges: draws a sheet of an audited run, writes the page for them, and reads their answers."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from auditor.evaluators.ahead import Ahead
from auditor.evaluators.evaluator import THREADS, train_judge
from auditor.evaluators.material import material_of
from auditor.evaluators.open_set import none_images, train_open_evaluators
from auditor.evidence import Exhibit, read_exhibit
from auditor.metrics.attack_accuracy import others_ahead
from auditor.people.answers import ANSWERS, Answers, Given, named
from auditor.people.reading import PeopleReport, Reading, read
from auditor.people.sheet import VERSION, Drawn, Item, Key, draw, read_key
from auditor.settings import Audit
from auditor.verdict import read_verdict
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.layout import PRIOR_ONLY, RECONSTRUCTIONS, SheetFiles
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import atomic_write, load_weights, save_weights, write_json
from fedinverse.switches import exact_fp32
from fedinverse.theirs import TheirError, attribute_at
from pipeline.stages.inversions import directory_of, finished, read_inversions
from report.judge import render

PER_KIND = 20


def make_sheet(run: Run, files: SheetFiles, per_kind: int = PER_KIND, seed: int = 0) -> Key:
    """Draw a sheet of the primary attack and round, have the evaluators judge it, and write it into ``files``.

    The same run, number and seed give the same sheet, and change nothing where it is there already.

    Raises:
        StageError: the run was not audited, there is nothing to ask, or another sheet is there.
    """
    drawn, attack, server_round, inversion = _drawn(run, per_kind, seed)
    if files.key.exists():
        there = read_key(files.key)
        if there.sheet != drawn.sheet:
            raise StageError(
                f"{files.root} holds another page (sheet {there.sheet}), whose answers could not be read without its "
                "key; give --out another directory"
            )
        if files.page.exists() and files.images.exists():
            return there
    key = Key(
        VERSION,
        drawn.sheet,
        str(run.table.get("name", run.path.name)),
        attack,
        server_round,
        run.class_names,
        _judged(run, drawn),
        drawn.notes,
        inversion,
    )
    save_weights(files.images, {"images": drawn.images.contiguous().numpy()})
    write_json(files.key, key.plain())
    atomic_write(files.page, render(drawn.sheet, drawn.ids, drawn.images, VERSION))
    return key


def _drawn(run: Run, per_kind: int, seed: int) -> tuple[Drawn, str, int, str]:
    """Return a sheet's items with what they are of: label of the attack, round, directory of its inversion."""
    if not run.files.verdict.exists():
        raise StageError(f"{run.path} was not audited; run 'fedinverse audit {run.path}' first")
    primary = read_verdict(run.files.verdict).primary
    exhibits: dict[str, Exhibit] = {}
    inversion = ""
    for each in finished(run):
        target = each.target
        if each.attack != primary.attack or target.round != primary.round or target.arm not in ("A", "B2"):
            continue
        where = target.world, target.round, each.attack
        exhibits.setdefault(target.arm, read_exhibit(each.inversion.path / RECONSTRUCTIONS, target.arm, *where))
        if target.arm == "A":
            inversion = directory_of(run, each)
            exhibits["B0"] = read_exhibit(each.inversion.path / PRIOR_ONLY, "B0", *where)
    return draw(run, list(exhibits.values()), per_kind, seed), primary.attack, primary.round, inversion


def _judged(run: Run, drawn: Drawn) -> tuple[Item, ...]:
    """Return the items with what the run's evaluators say of the same pixels that people see."""
    images, labels = unit(drawn.images[:, 0]), torch.tensor(drawn.labels)
    audit, store, samples = run.section("audit", Audit), run.files.auditor.root, read_inversions(run).samples
    with threads(THREADS), exact_fp32(audit.device), Ahead(run, audit, samples):
        material, none = material_of(run, audit.evaluator), none_images(run, samples)
        both = train_open_evaluators(material, audit.evaluator, none, store, audit.device)
        judge = train_judge(material, audit.evaluator, store, audit.device)
        closed = others_ahead(judge.logits(images), labels) == 0
        opened = (both.read(images) == labels[:, None]).all(1)
    rows = zip(drawn.ids, drawn.kinds, drawn.labels, closed.tolist(), opened.tolist(), strict=True)
    return tuple(Item(*row) for row in rows)


def read_sheet(files: SheetFiles, answers: list[Path]) -> Reading:
    """Read the judges' ``answers`` to the sheet in ``files``; write what they say beside it.

    Raises:
        ConfigError: answers that are none, or not to this sheet; see ``auditor.people.answers``.
        StageError: there is no sheet.
    """
    key = read_key(files.key)
    reading = read(key, named(answers, key))
    report = PeopleReport(key.sheet, key.attack, key.round, key.inversion, key.notes, reading)
    write_json(files.reading, asdict(report))
    return reading


Judge = Callable[[Tensor, Tensor], str]
"""A program that judges: (image float32 [C, H, W], real images float32 [4, C, H, W], all in [0, 1]) -> answer."""


def answer_with(path: str, files: SheetFiles) -> Path:
    """Have the program at the import ``path`` judge the sheet in ``files``; return its file of answers.

    Raises:
        ConfigError: it cannot be imported or called, or answers something else than "yes", "no" or "unsure".
        TheirError: it raised an exception.
    """
    key = read_key(files.key)
    stored = load_weights(files.images)[0].get("images")
    if stored is None or len(stored) != len(key.items):
        raise IntegrityError(
            f"{files.images}: does not hold the images of {files.key}; delete both and make them again"
        )
    judge = attribute_at(path, "--with")
    if not callable(judge):
        raise ConfigError(f"--with = '{path}' is no function (image, real images) -> 'yes', 'no' or 'unsure'")
    given = []
    for item, images in zip(key.items, torch.from_numpy(stored), strict=True):
        pixels = unit(images)
        try:
            answer = judge(pixels[0].clone(), pixels[1:].clone())
        except Exception as error:
            raise TheirError(f"--with = '{path}' failed on item {item.id}", error) from error
        if answer not in ANSWERS:
            raise ConfigError(f"--with = '{path}' answered {answer!r:.60}; it must be one of {', '.join(ANSWERS)}")
        given.append(Given(item.id, answer))
    out = files.root / f"answers-{''.join(c if c.isalnum() or c in '._-' else '-' for c in path)}.json"
    write_json(out, Answers(VERSION, key.sheet, path[:80], tuple(given)).plain())
    return out
