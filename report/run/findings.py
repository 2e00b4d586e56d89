"""The verdict in words: what stands on top of the page, and its further figures."""

from collections.abc import Sequence

from auditor.arms import CONTROLS
from auditor.verdict import GateReport, Interval, LeakCost, Missing, Point, Verdict
from report.run.tables import SAID
from report.text import interval, share


def finding(point: Point, names: Sequence[str], metric: str) -> str:
    """Return the primary figure and its controls in two sentences; ``names`` are the victim's classes."""
    listed = ", ".join(names) if len(names) <= 12 else f"{len(names)} classes"
    beside = [
        f"{CONTROLS[arm]} {share(score.value)}" for arm in CONTROLS if isinstance(score := point.arms[arm], Interval)
    ]
    attack = point.arms["A"]
    assert isinstance(attack, Interval)
    return (
        f"From the global model of round {point.round}, attack “{point.attack}” made images of the victim's "
        f"classes ({listed}); {share(attack.value)} of them are {_said(metric)}. "
        f"Controls: {'; '.join(beside)}."
    )


def _said(metric: str) -> str:
    return SAID.get(metric, f"counted by “{metric}”")


def facts(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval or remark): the handful that stands beside the verdict."""
    point, handful = verdict.main, []
    metric = _said(verdict.primary.metric)
    words = {"A": f"of the reconstructions are {metric}", "B2": "false positives: the same without the victim"}
    for arm, what in words.items():
        score = point.arms[arm]
        if isinstance(score, Missing):
            handful.append(("–", what, "not run"))
        else:
            handful.append((share(score.value), what, f"[{100 * score.low:.0f}, {100 * score.high:.0f}]"))
    public = point.arms["B4"]
    if isinstance(public, Interval):
        handful.append((share(public.value), f"of the public images that the model picks are {metric}", ""))
    if isinstance(point.gate, GateReport):
        handful.append((share(point.gate.accuracy), "model's accuracy on the victim's classes", ""))
    when = verdict.time_to_leak[point.attack]
    if isinstance(when, Missing):
        handful.append(("–", "no round from which on it leaks", when.omitted))
    else:
        known = {(each.attack, each.round): each.gate for each in verdict.points}.get((point.attack, when))
        early = isinstance(known, GateReport) and not known.learned
        remark = "before the model itself knows the classes" if early else ""
        handful.append((f"round {when}", "from then on it leaks", remark))
    cost = verdict.cost_per_leaked_class
    if isinstance(cost, LeakCost):
        handful.append((f"{cost.seconds:.3g} s", "cost per leaked class", f"{cost.target_queries:,.0f} queries"))
    return handful


def figures(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Return (name, figure, meaning or why it is missing) of the verdict's other figures."""
    point = verdict.main
    shares = [
        ("Leakage", point.leakage, "attack less false positives"),
        (
            "Corrected",
            point.corrected,
            "leakage as a part of what is not false positive: leakage / (100 % less the share without the victim)",
        ),
        ("Normalised", point.normalised, "0 %: the best control; 100 %: real images"),
        *(
            (f"Lead over {CONTROLS[arm]}", lead, f"attack less {arm}; above 0: that does not explain the attack")
            for arm, lead in point.leads.items()
        ),
        (
            "Selection",
            point.selection,
            "share of the public images that the model picks, less what a model without the victim picks",
        ),
        (
            "Nearer to training",
            verdict.member_lift,
            "50 %: the images show what the class looks like; above: the victim's own images",
        ),
    ]
    every = [
        (name, interval(score), score.omitted if isinstance(score, Missing) else meaning)
        for name, score, meaning in shares
    ]
    smallest = point.minimum_detectable_effect
    if isinstance(smallest, float):
        every.append(("Detectable", share(smallest), "smallest leakage found with 80 % probability"))
    cost = verdict.cost_per_leaked_class
    if isinstance(cost, LeakCost):
        spent = f"{cost.seconds:.3g} s, {cost.target_queries:,.0f} queries"
        every.append(("Cost per leaked class", spent, f"over {cost.classes_leaked:.1f} classes leaked"))
    return every


def omitted(verdict: Verdict) -> list[tuple[str, str]]:
    """Return (metric, why it could not be had, for which arms)."""
    return [(each.metric.replace("-", " "), f"{each.reason} ({', '.join(each.arms)})") for each in verdict.omitted]
