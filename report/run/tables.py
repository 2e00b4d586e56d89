"""The tables of the page, out of the verdict and the score table. Shares are written in percent with their interval."""

from collections.abc import Sequence

import pandas as pd

from auditor.arms import ONCE
from auditor.metrics.names import ACCURACY, METRICS, OPEN, RESEMBLANCE, WHOLE_SET, in_order
from auditor.verdict import GateReport, Missing, Point
from fedinverse.records import RoundLine
from report.run.curve import LINES
from report.table import Table
from report.text import NONE, interval, share

SAID = {
    ACCURACY: "recognised by the evaluator",
    OPEN: "recognised by both evaluators",
    RESEMBLANCE: "resembling a training image",
}
"""What a share of reconstructions is called in a sentence; other metrics go by their own name."""
MEANING = {
    "A": "Inversion of the global model that the malicious client was sent.",
    "B2": "The same attack on the same federation without the victim's images. Whatever it scores is a false positive "
    "by construction.",
    "B0": "The same generator, the same number of samples, not optimised: what the public images alone look like.",
    "B1": "The same attack on the model of round 0, which has seen nobody's data.",
    "B3": "The same attack on a model trained on the attacker's own images alone.",
    "B4": "No inversion: the attacker's public images that the captured model is surest of. High where public images "
    "look like the victim's.",
    "B4W": "No inversion: the public images that the model without the victim is surest of. Where B4 scores "
    "more, the victim's images are the reason.",
    "T1": "Images optimised against the captured model without any prior. If the evaluator recognised "
    "them, it would recognise whatever the model does.",
    "B5": "The same reconstructions, judged as if they were to show the next class. If more than chance passed, the "
    "evaluator could not be trusted.",
    "CEIL": "The evaluator on real images of the victim's classes from the reserve: what an attack can hope for.",
}


OF_ROUNDS = {
    "model knows": "accuracy of the model on reserve images of the victim's classes; “not yet”: below the gate, so "
    "that a low figure is no evidence of safety",
    "attack": "share of the reconstructions that the evaluator takes for the victim's class",
    "no victim": "the same for the federation without the victim: false positives",
    "leakage": "attack less no victim: what only the victim's images explain",
    "corrected": "leakage as a part of what is not false positive: leakage / (100 % less no victim)",
    "normalised": "the attack on a scale from the best control (0 %) to real images (100 %)",
    "p (Holm)": "probability of such a leakage by chance, corrected for the number of rounds",
    "detectable": "smallest leakage that would have been found with 80 % probability",
}
OF_CLASSES = {
    "held by": "whose class it is: the victim's alone, or others' too",
    "model's accuracy": "of the attacked model on reserve images of the class",
}


def controls(point: Point) -> list[tuple[str, str, str, str]]:
    """Return (arm, name, meaning, figure or reason) of every arm at one attack and round."""
    return [
        (
            arm,
            LINES[arm],
            MEANING[arm],
            f"not run: {score.omitted}" if isinstance(score, Missing) else interval(score),
        )
        for arm, score in ((arm, point.arms[arm]) for arm in LINES if arm in MEANING)
    ]


OF_WHOSE = {
    "the victim's": "training images that the victim alone holds",
    "other clients'": "as many training images of the same classes at clients who are not the attacker",
    "nobody's": "as many images of the same classes that are in no training set",
    "the victim's, in a run without it": "the same attack on the federation without the victim's client",
}


def whose(point: Point) -> Table | None:
    """Return whose images are shown; None where the victim's classes are theirs alone."""
    report = point.attribution
    if isinstance(report, Missing):
        return None
    near, copied = report.resemblance, report.copied
    rows = [
        ["victim's nearer than these, by", NONE, *map(interval, (report.others, report.nobody, report.without))],
        ["like one of these", *(interval(near[key]) for key in ("victim", "others", "nobody")), NONE],
        ["of these copied", *(_number(copied[key]) for key in copied)],
    ]
    caption = "Whose images are shown (nearer by: 0 % is even, 100 % always the victim's)"
    return Table(caption, ["", *OF_WHOSE], rows, OF_WHOSE)


def _number(count: float | Missing) -> str:
    return NONE if isinstance(count, Missing) else f"{count:.3g}"


def leakage(points: Sequence[Point]) -> Table:
    """Return every attack at every round, with the corrected and normalised forms."""
    rows = []
    for point in points:
        known = "–"
        if isinstance(point.gate, GateReport):
            known = share(point.gate.accuracy) + ("" if point.gate.learned else ", not yet")
        figures = (point.arms["A"], point.arms["B2"], point.leakage, point.corrected, point.normalised)
        detectable = point.minimum_detectable_effect
        rows.append([
            f"{point.attack}, round {point.round}",
            point.outcome,
            known,
            *map(interval, figures),
            "–" if isinstance(point.p_holm, Missing) else f"{point.p_holm:.2g}",
            "–" if isinstance(detectable, Missing) else share(detectable),
        ])  # fmt: skip
    header = [
        "",
        "outcome",
        "model knows",
        "attack",
        "no victim",
        "leakage",
        "corrected",
        "normalised",
        "p (Holm)",
        "detectable",
    ]
    return Table("Every attack and round, mean over the victim's classes with 95 % interval", header, rows, OF_ROUNDS)


def classes(
    scores: pd.DataFrame, point: tuple[str, int], names: Sequence[str], victims: Sequence[int], known: Sequence[float]
) -> Table:
    """Return one row per attacked class with every metric of a class, the best reconstructed first.

    Args:
        point: (attack label, round).
        known: accuracy of the model of that round by class, in [0, 1].
    """
    attack, number = point
    mine = scores[(scores["attack"] == attack) & (scores["arm"] == "A") & (scores["round"] == number)]
    mine = mine[mine["label"] != WHOLE_SET]
    had = in_order(mine["metric"])
    wide = mine.pivot_table(index="label", columns="metric", values="value", aggfunc="mean")
    ranked = wide.sort_values(ACCURACY, ascending=False, kind="stable")
    rows = [
        [
            names[label],
            "victim" if label in victims else "others",
            share(known[label]),
            *(_figure(metric, line[metric]) for metric in had),
        ]
        for label, line in zip(ranked.index.tolist(), ranked.to_dict("records"), strict=True)
    ]
    header = ["class", "held by", "model's accuracy", *(metric.replace("-", " ") for metric in had)]
    return Table(f"By class: attack “{attack}” at round {number}", header, rows, {**OF_CLASSES, **_said(had)})


def whole_set(scores: pd.DataFrame, point: tuple[str, int]) -> Table | None:
    """Return one row per arm with every metric that speaks of all reconstructions together; None without any."""
    attack, number = point
    mine = scores[(scores["label"] == WHOLE_SET) & scores["attack"].isin((attack, ""))]
    mine = mine[(mine["round"] == number) | mine["arm"].isin(ONCE)]
    had = in_order(mine["metric"])
    if not had:
        return None
    wide = mine.pivot_table(index="arm", columns="metric", values="value", aggfunc="mean").to_dict("index")
    rows = [
        [f"{LINES[arm]} ({arm})", *(_figure(metric, wide[arm].get(metric)) for metric in had)]
        for arm in LINES
        if arm in wide
    ]
    return Table(
        f"The reconstructions as a set: attack “{attack}”, round {number}",
        ["", *(metric.replace("-", " ") for metric in had)],
        rows,
        _said(had),
    )


def _said(metrics: Sequence[str]) -> dict[str, str]:
    """Return what every metric says, by the name of its column."""
    return {metric.replace("-", " "): METRICS.get(metric).meaning for metric in metrics}


def meanings(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (metric, what it says) of every metric the score table holds."""
    return [(name.replace("-", " "), METRICS.get(name).meaning) for name in in_order(scores["metric"])]


def _figure(metric: str, value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    return share(value) if METRICS.get(metric).share else f"{value:.3g}"


def utility(rounds: Sequence[RoundLine]) -> Table:
    """Return the model's accuracy by round, on all classes and on the victim's."""
    rows = [
        [f"round {line.round}", share(line.accuracy), share(line.victim_accuracy), f"{line.loss:.3f}"]
        for line in rounds
    ]
    return Table(
        "Accuracy of the global model on reserve images, which are in no training set",
        ["", "all classes", "the victim's classes", "loss"],
        rows,
        {"loss": "mean cross-entropy per image; ln K for a model that guesses among K classes"},
    )
