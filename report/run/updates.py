"""What the page says of inverted updates: a table of the attack beside its controls, and a picture."""

from dataclasses import dataclass
from pathlib import Path

from auditor.questions import Answer
from auditor.updates import ARMS, ATTACK
from report.table import Table
from report.text import NONE, share

COLUMNS = {
    "arm": "the attack; the same labels and budget on the federation without the victim; images of the class at random",
    "PSNR": "nearness to the victim's training image that each was matched to, in dB: 10 is noise, 20 is recognisable",
    "SSIM": "likeness of structure to that image, from -1 to 1",
    "E2 distance": "distance in the task-free embedding: 0 alike, 1.41 unrelated",
    "attack's lead": "how much higher the attack's PSNR is, in dB, with its 95 % interval over rounds and classes",
}
METRICS = (("psnr", 1), ("ssim", 2), ("distance", 2))


@dataclass(frozen=True)
class UpdateFigures:
    """What the page shows.

    Attributes:
        arms: one row per arm.
        labels: what the labels found are worth, in a sentence.
    """

    arms: Table
    labels: str
    picture: bytes


def update_figures(answer: Answer, picture: Path) -> UpdateFigures:
    """Return what the page shows of ``answer``."""
    rows = [
        [
            arm,
            *(_number(answer.figures.get(f"{metric}, {arm}"), digits) for metric, digits in METRICS),
            _lead(answer, arm),
        ]
        for arm in ARMS
    ]
    wrong, equal = (answer.figures.get(key) for key in ("label error", "label error of equal shares"))
    labels = (
        f"Of the class shares that the attack reads from the update {share(wrong)} are wrong; of equal shares "
        f"{share(equal)} would."
    )
    caption = "Images from the others' update beside the victim's, and what controls come to"
    return UpdateFigures(Table(caption, list(COLUMNS), rows, COLUMNS), labels, picture.read_bytes())


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _lead(answer: Answer, arm: str) -> str:
    value, low, high = (answer.figures.get(f"lead over {arm}{end}") for end in ("", ", low", ", high"))
    if arm == ATTACK or value is None:
        return NONE
    return f"{value:+.1f}" + ("" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]")
