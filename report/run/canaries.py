"""What the canaries show, in words and as a table; an accounted epsilon below the empirical bound is an alarm."""

from auditor.canaries import CHANCE, Accounted, CanaryReport
from auditor.verdict import Missing
from report.table import Table
from report.text import NONE, percent

WHOSE = {"own": "the victim's own noise", "central": "noise on the average"}


def sentence_of(report: CanaryReport) -> str:
    """Return what they show in one sentence."""
    guessed = f"{report.right} of {report.guesses} guesses about {report.count} canaries are right"
    if report.epsilon == 0:
        return f"{guessed}: they show no epsilon above 0, which does not show that it is small."
    sure = percent(report.confidence, 0)
    return f"{guessed}: epsilon is at least {report.epsilon:.2f} (delta {report.delta:g}, {sure} sure)."


def alarms(report: CanaryReport) -> list[str]:
    """Return a sentence for every account that the canaries contradict."""
    return [
        f"By {WHOSE[each.noise]} an epsilon of {each.epsilon:.3g} is accounted, but the canaries show at least "
        f"{each.bound:.3g} (delta {each.delta:g}, {percent(report.confidence, 0)} sure): the noise, the clipping or "
        "the accounting is not what it is said to be."
        for each in report.accounted
        if each.contradicted
    ]


def canary_table(report: CanaryReport) -> Table:
    """Return everything as one table."""
    exposure = report.exposure
    bits = NONE if isinstance(exposure, Missing) else f"{exposure.value:.2f} [{exposure.low:.2f}, {exposure.high:.2f}]"
    rows = [
        ["epsilon at least", f"{report.epsilon:.2f}", f"delta {report.delta:g}, {percent(report.confidence, 0)} sure"],
        ["at most to be shown", f"{report.most:.2f}", "had every guess been right"],
        [
            "right guesses",
            f"{report.right} of {report.guesses}",
            f"the best of three numbers, paid for; round {report.round}",
        ],
        [
            "canaries",
            f"{report.planted} of {report.count}",
            "trained on with a random label, by the toss of a coin each",
        ],
        ["exposure, bits", bits, f"mean of those trained on; {CHANCE:.2f} by chance"],
        *(_account(each) for each in report.accounted),
    ]
    notes = [sentence_of(report), *alarms(report)]
    if not report.accounted:
        notes.append("Nothing is accounted for the victim, so there is no epsilon to compare the bound with.")
    return Table("What the canaries show of epsilon", ["", "", ""], rows, notes=notes)


def _account(each: Accounted) -> list[str]:
    state = "contradicted" if each.contradicted else "not contradicted"
    return [
        f"accounted, {WHOSE[each.noise]}",
        f"{each.epsilon:.3g}",
        f"delta {each.delta:g}: {state} by {each.bound:.2f}",
    ]
