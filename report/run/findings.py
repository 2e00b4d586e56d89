"""The verdict in words: what stands on top of the page, and its further figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from auditor.arms import CONTROLS
from report.run.tables import SAID, interval, share


def finding(point: Mapping[str, Any], names: Sequence[str], metric: str) -> str:
    """Return the primary figure and its controls in two sentences; ``names`` are the victim's classes."""
    listed = ", ".join(names) if len(names) <= 12 else f"{len(names)} classes"
    beside = [
        f"{CONTROLS[arm]} {share(found['value'])}" for arm in CONTROLS if "value" in (found := point["arms"][arm])
    ]
    return (
        f"From the global model of round {point['round']}, attack “{point['attack']}” made images of the victim's "
        f"classes ({listed}); {share(point['arms']['A']['value'])} of them are {SAID.get(metric, metric)}. "
        f"Controls: {', '.join(beside)}."
    )


def facts(verdict: Mapping[str, Any], point: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (figure, what it is, interval or remark): the handful that stands beside the verdict."""
    told = []
    metric = SAID.get(verdict["primary"]["metric"], verdict["primary"]["metric"])
    words = {"A": f"of the reconstructions are {metric}", "B2": "false positives: the same without the victim"}
    for arm, what in words.items():
        found = point["arms"][arm]
        if "omitted" in found:
            told.append(("–", what, "not run"))
        else:
            told.append((share(found["value"]), what, f"[{100 * found['low']:.0f}, {100 * found['high']:.0f}]"))
    if "accuracy" in point["gate"]:
        told.append((share(point["gate"]["accuracy"]), "model's accuracy on the victim's classes", ""))
    when = verdict["time_to_leak"][point["attack"]]
    told.append(
        ("–", "time to leak", when["omitted"]) if isinstance(when, dict) else (f"round {when}", "time to leak", "")
    )
    cost = verdict["cost_per_leaked_class"]
    if "omitted" not in cost:
        told.append((f"{cost['seconds']:.3g} s", "cost per leaked class", f"{cost['target_queries']:,.0f} queries"))
    return told


def figures(verdict: Mapping[str, Any], point: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, figure, meaning or why it is missing) of the verdict's other figures."""
    shares = [
        ("Leakage", point["leakage"], "attack less false positives"),
        ("Corrected", point["corrected"], "of what the false positives leave to win"),
        ("Normalised", point["normalised"], "0 %: the best control; 100 %: real images"),
        ("Nearer to training", verdict["member_lift"], "50 %: what the class looks like; above: memorised"),
    ]
    every = [(name, interval(found), found.get("omitted", meaning)) for name, found, meaning in shares]
    smallest = point["minimum_detectable_effect"]
    if isinstance(smallest, float):
        every.append(("Detectable", share(smallest), "smallest leakage found with 80 % probability"))
    cost = verdict["cost_per_leaked_class"]
    if "seconds" in cost:
        spent = f"{cost['seconds']:.3g} s, {cost['target_queries']:,.0f} queries"
        every.append(("Cost per leaked class", spent, f"over {cost['classes_leaked']:.1f} classes leaked"))
    return every


def omitted(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (metric, why it could not be had, for which arms)."""
    return [
        (each["metric"].replace("-", " "), f"{each['reason']} ({', '.join(each['arms'])})")
        for each in verdict.get("omitted", [])  # verdicts of earlier versions lack it
    ]
