"""What must stand beside everything that is shown of a run, whatever came out of it."""

import numpy as np

from auditor.questions import SECTIONS, Question
from fedinverse.config import Data
from fedinverse.run import Run
from fedinverse.split import held_by
from fedinverse.storage import read_jsonl

OVERLAP = (
    "Overlap allowed: public and victim classes may be the same (data.allow_overlap), so a success may be the "
    "attacker's own."
)
AMENDED = "Not fixed before the run: {} changed after the federation had begun."
NOT_HELD_OUT = (
    "The audited model may have been trained on the images that the evaluator learned from and is tested with (no "
    "--held-out), so the ceiling and the model's own accuracy may be too good."
)
HELD = "Shared classes: the attacker itself holds images of {} of the {} classes that are attacked."
ACTIVE = "The attacker was active ({}), and so the federation is not one of honest updates."
OVERLAP_CAPTION = "Overlap allowed: public images may show these classes"


def overlaps(run: Run) -> bool:
    """Return whether the attacker's public images were allowed to show the victim's classes."""
    return run.section("data", Data).allow_overlap


def amended(run: Run) -> tuple[str, ...]:
    """Return the keys of the configuration that were changed after the federation had begun, in order."""
    return tuple(dict.fromkeys(key for line in read_jsonl(run.files.amendments) for key in line["keys"]))


def marks_of_run(run: Run) -> tuple[str, ...]:
    """Return the marks of ``run``; empty: there are none. What only a further question reads marks its own answer."""
    changed = [key for key in amended(run) if key.split(".")[0] not in SECTIONS[1:]]
    held = ""
    if run.population.shares_classes:
        theirs = np.logical_or.reduce([held_by(run.split, attacker) for attacker in run.population.attackers])
        both = set(run.split.loc[theirs, "label"]) & set(run.victim_classes)
        held = HELD.format(len(both), len(run.victim_classes)) if both else ""
    one_file, active = run.table.get("weights_file"), run.table.get("active")
    marks = (
        OVERLAP if overlaps(run) else "",
        held,
        ACTIVE.format(active["kind"]) if active else "",
        AMENDED.format(", ".join(changed)) if changed else "",
        NOT_HELD_OUT if one_file and not one_file["held_out"] else "",
    )
    return tuple(filter(None, marks))


def marks_of_question(run: Run, question: Question) -> tuple[str, ...]:
    """Return the marks of the answer to ``question``: what was changed of its section after the federation began."""
    changed = [key for key in amended(run) if key.split(".")[0] == question.section]
    return (AMENDED.format(", ".join(changed)),) if changed else ()
