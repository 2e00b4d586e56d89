"""What the page says of inverted updates: a table of the attack beside its controls, and a picture."""

from pathlib import Path

from auditor.questions import Answer
from auditor.updates import ARMS, ATTACK
from report.table import Panel, Table
from report.text import NONE, share

COLUMNS = {
    "arm": "the attack; the same labels and budget on the federation without the victim; images of the class at random",
    "PSNR": "nearness to the victim's training image that each was matched to, in dB: 10 is noise, 20 is recognisable",
    "SSIM": "likeness of structure to that image, from -1 to 1",
    "E2 distance": "distance in the task-free embedding: 0 alike, 1.41 unrelated",
    "attack's lead": "how much higher the attack's PSNR is, in dB, with its 95 % interval over rounds and classes",
}
PICTURE = (
    "Rows: the attack, the same attack without the victim, and random images of the class. Left: the images; right: "
    "the victim's images that each was matched to.",
    "Reconstructions from an update, beside the private images nearest to them",
)
METRICS = (("psnr", 1), ("ssim", 2), ("distance", 2))


def update_figures(answer: Answer, picture: Path) -> Panel:
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
    return Panel(labels, [Table(caption, list(COLUMNS), rows, COLUMNS)], [(*PICTURE, picture.read_bytes())])


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _lead(answer: Answer, arm: str) -> str:
    value, low, high = (answer.figures.get(f"lead over {arm}{end}") for end in ("", ", low", ", high"))
    if arm == ATTACK or value is None:
        return NONE
    return f"{value:+.1f}" + ("" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]")
