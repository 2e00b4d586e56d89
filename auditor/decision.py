"""The decision: from the primary attack's leakage to ``leak``, ``no leak detected`` or ``inconclusive``, with reasons.

With L = s(A) - s(B2) and its 95 % interval (``auditor.leakage``):

``leak``
    The intervals of L, s(A) - s(B0) and s(A) - s(B3) lie above 0: neither a federation without the victim nor
    the prior nor the attacker's own shard explains the score. All must hold, so no correction for several
    tests is due. It holds below the gate as well. B3, which B2 contains, may be missing and is then named; B0
    may not.
``no leak detected``
    L was not found, the target knows the classes (gate), the evaluator recognises real images (ceiling), and
    a leak of ``resolution`` would have been found with 80 % probability. Relative to these attacks, always.
``inconclusive``
    Everything else; ``reasons`` says what is missing.

A B5 above chance means that the instrument scores what cannot be there: always ``inconclusive``.
"""

from typing import Literal

from auditor.leakage import Gate, Leakage
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import Estimate, minimum_detectable_effect

Outcome = Literal["leak", "no leak detected", "inconclusive"]


def above_controls(leakage: Leakage) -> bool | Omitted:
    """Return whether A lies above B2, B0 and, where it was run, B3, each by its own interval."""
    for needed in (leakage.leakage, leakage.beyond["B0"]):
        if isinstance(needed, Omitted):
            return needed
    differences = (leakage.leakage, *leakage.beyond.values())
    return all(each.low > 0 for each in differences if isinstance(each, Estimate))


def decide(main: Leakage, gate: Gate | None, primary: Primary, classes: int) -> tuple[Outcome, tuple[str, ...]]:
    """Return the outcome of the primary attack and round, and why, the decisive reason first.

    Args:
        main: what the score table says about them.
        gate: whether the target knows the victim's classes; None: unknown.
        primary: what was fixed before the run.
        classes: number K of classes the evaluator knows; chance is 1 / K.
    """
    broken = _broken(main, classes)
    if broken:
        return "inconclusive", (broken,)
    difference = main.leakage
    if isinstance(difference, Omitted):
        return "inconclusive", (
            f"nothing can be attributed to the victim without a federation that lacks him: {difference.reason}",
        )
    marks = difference.marks
    if difference.low > 0:
        outcome, reasons = _found(main, difference)
        if gate is not None and not gate.learned:
            reasons = (*reasons, str(gate))
        return outcome, (*reasons, *marks)
    reasons = _blind(main, gate, difference, primary)
    if reasons:
        return "inconclusive", (
            f"leakage {_show(difference)} is not above 0, which says nothing here",
            *reasons,
            *marks,
        )
    detectable = minimum_detectable_effect(difference)
    return "no leak detected", (
        f"leakage {_show(difference)} is not above 0",
        f"a leakage of {detectable:.0%} would have been found with 80 % probability",
        *([str(gate)] if gate else []),
        *marks,
    )


def _found(main: Leakage, difference: Estimate) -> tuple[Outcome, tuple[str, ...]]:
    """Judge an attack that beats B2: a leak only if the prior and the own shard do not explain it as well."""
    above = f"leakage {_show(difference)} lies above 0"
    beaten, not_run = ["B2"], []
    for arm, control in main.beyond.items():
        if isinstance(control, Omitted):
            if arm == "B0":
                return "inconclusive", (f"{above}, but the prior alone was not scored: {control.reason}",)
            not_run.append(f"control {arm} was not run: {control.reason}")
            continue
        beaten.append(arm)
        if control.low <= 0:
            what = "the prior alone" if arm == "B0" else "a model of the attacker's own shard"
            return "inconclusive", (
                f"{above}, but {what} ({arm}) may do as well: the lead over it is {_show(control)}",
            )
    return "leak", (f"{above}, and the attack beats {', '.join(sorted(beaten))}", *not_run)


def _broken(main: Leakage, classes: int) -> str:
    """Return what shows that the instrument scores what cannot be there; empty: nothing."""
    permuted = main.arms["B5"]
    if isinstance(permuted, Estimate) and permuted.low > 1 / classes:
        return f"the instrument is broken: permuted labels score {_show(permuted)}, above chance, {1 / classes:.0%}"
    return ""


def _blind(main: Leakage, gate: Gate | None, difference: Estimate, primary: Primary) -> tuple[str, ...]:
    """Return why finding nothing says nothing; empty: it does."""
    reasons = []
    if gate is None:
        reasons.append("the target's accuracy on the victim's classes is unknown")
    elif not gate.learned:
        reasons.append(str(gate))
    ceiling = main.arms["CEIL"]
    if isinstance(ceiling, Omitted):
        reasons.append(f"what the evaluator can recognise is unknown: {ceiling.reason}")
    elif ceiling.value < primary.ceiling:
        reasons.append(
            f"the evaluator scores real images of the victim's classes {_show(ceiling)}, under {primary.ceiling:.0%}"
        )
    detectable = minimum_detectable_effect(difference)
    if detectable > primary.resolution:
        reasons.append(
            f"over {difference.cells} cells (classes x seeds) only a leakage of {detectable:.0%} would have been "
            f"found with 80 % probability; {primary.resolution:.0%} is asked for"
        )
    return tuple(reasons)


def sentence(outcome: Outcome, main: Leakage, attacks: list[str]) -> str:
    """Return the verdict in one sentence."""
    if outcome == "inconclusive":
        return f"Inconclusive: {main.attack} at round {main.round} allows no verdict; see the reasons."
    assert isinstance(main.leakage, Estimate)
    if outcome == "leak":
        return (
            f"Leak: {main.attack} at round {main.round} shows {_show(main.leakage)} of the victim's classes "
            "beyond what the same attack shows without the victim."
        )
    return (
        f"No leak detected, relative to these attacks: {', '.join(attacks)}. {main.attack} at round "
        f"{main.round} would have shown a leakage of {minimum_detectable_effect(main.leakage):.0%} with 80 % "
        "probability."
    )


def _show(found: Estimate) -> str:
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"
