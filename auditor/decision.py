"""The decision: from the primary attack's figures to one outcome, with its reasons and with what would settle it.

``QUESTIONS`` are asked in their order; the first that has an answer decides:

| question | if so |
|---|---|
| Does the instrument score what cannot be there (wrong labels, B5)? | inconclusive |
| Is the federation without the victim missing (B2)? | inconclusive |
| Can the evaluator not read real images (CEIL under ``primary.ceiling``)? | inconclusive |
| Shared classes: are the victim's own images shown (``auditor.attribution``)? | leak, or below resolution |
| Shared classes: is the class shown, their images no nearer, A not above B2? | the class, not the client |
| Is A not shown above B2? | below resolution, no leak detected or inconclusive, see ``_quiet`` |
| Is A - B2 shown, but less than ``primary.resolution``? | below resolution |
| Does the prior (B0), the untrained model (B1) or the own shard (B3) explain A? | inconclusive |
| Do public images that the model picks do as well (B4)? | selected, or inconclusive, see ``_selected`` |
| Does nothing resemble the victim's images (resemblance and copy guard)? | recognised only |
| otherwise | leak: the model was inverted |

"Shown above" is ``Estimate.above_zero``. All conditions of a leak must hold at once, so no correction for several tests
is due. B0 must have been scored; B1, B3 and B4 are named where they were not run. A leak below the gate stays one, and
is marked as a contradiction: the attack shows more than the model itself knows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from auditor.arms import ARMS
from auditor.attribution import Attribution
from auditor.leakage import Gate, Leakage
from auditor.omitted import Omitted
from auditor.settings import Primary
from auditor.statistics import FEWEST_CLASSES, FEWEST_WORLDS, LEVEL, Estimate, unseen

Outcome = Literal[
    "leak",
    "selected",
    "recognised only",
    "below resolution",
    "the class, not the client",
    "no leak detected",
    "inconclusive",
]
TITLES: dict[Outcome, str] = {
    "leak": "Leak",
    "selected": "Selection, not inversion",
    "recognised only": "Recognised, but resembling nothing",
    "below resolution": "Below the resolution",
    "the class, not the client": "The class, not the client",
    "no leak detected": "No leak detected",
    "inconclusive": "Inconclusive",
}
"""The words with which the sentence on an outcome begins."""
FOUND: tuple[Outcome, ...] = ("leak", "selected", "recognised only")
"""Outcomes in which the attack is shown above every control but perhaps the public images."""
HALF = 0.5
ACCIDENTS = 0.05  # a share of images this small is near the victim's by accident: E2 accepts 1 % of others anyway
WANTED_SEEDS, WANTED_WORLDS, MOST_SEEDS = 3, 5, 100
EXPLAINED = {
    "B0": "the prior alone",
    "B1": "an untrained model",
    "B3": "a model of the attacker's own shard",
}


@dataclass(frozen=True)
class Decision:
    """What is concluded.

    Attributes:
        outcome: see ``auditor.decision``.
        reasons: why, the decisive one first.
        settle: what would settle an inconclusive one; empty otherwise.
        mark: a contradiction that must be shown wherever the verdict is; empty: none.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    settle: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Case:
    """What is judged.

    Attributes:
        main: what the score table says of one attack at one round.
        gate: whether the target knows the victim's classes; None: unknown.
        primary: what was fixed before the run.
        classes: number K of classes the evaluator knows; chance is 1 / K.
    """

    main: Leakage
    gate: Gate | None
    primary: Primary
    classes: int

    @property
    def leakage(self) -> Estimate:
        """A - B2, once ``_unattributed`` has made sure that it is there."""
        assert isinstance(self.main.leakage, Estimate)
        return self.main.leakage


def decide(case: Case) -> Decision:
    """Return the answer of the first question that has one."""
    decision = next(answer for question in QUESTIONS if (answer := question(case)))
    known = case.main.leakage if isinstance(case.main.leakage, Estimate) else None
    decision = replace(decision, reasons=(*decision.reasons, *(known.marks if known else ())))
    return _contradicted(case, decision) if decision.outcome in FOUND else decision


def _broken(case: Case) -> Decision | None:
    permuted, chance = case.main.arms["B5"], 1 / case.classes
    if isinstance(permuted, Omitted) or permuted.low <= chance:
        return None
    return Decision(
        "inconclusive",
        (
            f"the evaluator cannot be trusted: judged as the next class, the same images score {show(permuted)}, "
            f"above chance, {chance:.0%}",
        ),
        ("an evaluator that tells the classes apart: look at audit/grids and at [audit.evaluator]",),
    )


def _unattributed(case: Case) -> Decision | None:
    missing = case.main.leakage
    if isinstance(missing, Estimate):
        return None
    return Decision(
        "inconclusive",
        (f"whether the victim's images are the reason only a federation without them can say: {missing.reason}",),
        ("the same federation without the victim (audit.without_victim = true; fedinverse run or audit-app)",),
    )


def _unread(case: Case) -> Decision | None:
    ceiling, least = case.main.arms["CEIL"], case.primary.ceiling
    if isinstance(ceiling, Omitted):
        reason = f"what the evaluator can recognise is unknown: {ceiling.reason}"
    elif ceiling.value < least:
        reason = (
            f"the evaluator recognises only {show(ceiling)} of real images of the victim's classes, under {least:.0%}"
        )
    else:
        return None
    return Decision("inconclusive", (reason,), ("a better evaluator: audit.evaluator.epochs, width or model",))


def _client(case: Case) -> Decision | None:
    """Judge, of a victim who shares their classes, whether their own images are shown."""
    whose = case.main.attribution
    if whose is None or not (whose.nearer or whose.copies_shown):
        return None
    lead = (
        f"its images are nearer to the victim's than to as many at other clients: lead {show(whose.others)}, 0% is even"
    )
    if whose.copies_shown:
        number, before = whose.copied["victim"], whose.copied["victim, without their client"]
        without = f"{before:.3g}" if before else "none"
        return Decision(
            "leak",
            (
                f"{number:.3g} different training images of the victim's are copied, {without} without that client",
                *([lead] if whose.nearer else []),
            ),
        )
    if whose.others.value < case.primary.resolution:
        return Decision(
            "below resolution",
            (f"{lead}; {case.primary.resolution:.0%} is the least that matters here (audit.primary.resolution)",),
        )
    without = f"; without that client {show(whose.without)}" if isinstance(whose.without, Estimate) else ""
    return Decision("leak", (f"{lead}{without}",))


def _class(case: Case) -> Decision | None:
    """Judge, of a victim who shares their classes, whether the class is shown and their images are not."""
    whose, prior = case.main.attribution, case.main.leads["B0"]
    if whose is None or case.leakage.above_zero or _blind(case)[0]:
        return None
    if isinstance(prior, Omitted) or not prior.above_zero:
        return None
    first = (
        f"the attack shows the class (lead over the prior {show(prior)}), but its images are no nearer to the victim's "
        f"than to as many at other clients: lead {show(whose.others)}, 0% is even"
    )
    if whose.others.high >= case.primary.resolution:
        return Decision("inconclusive", (first, "a lead that matters is not excluded"), _more(case, whose.others))
    alone = case.main.leads["B3"]
    also = (
        ("a model of the attacker's own shard may show the class as well",)
        if isinstance(alone, Estimate) and not alone.above_zero
        else ()
    )
    copied = whose.copied["victim"]
    none = () if isinstance(copied, Omitted) or copied else ("no training image of the victim's is copied",)
    return Decision("the class, not the client", (first, *none, *also))


def _quiet(case: Case) -> Decision | None:
    """Judge an attack that is not shown above B2: that says something only if a leak would have been seen."""
    leakage, resolution = case.leakage, case.primary.resolution
    if leakage.above_zero:
        return None
    first = f"leakage {show(leakage)} is not shown to be above 0 (p {leakage.p:.3f})"
    blind, settle = _blind(case)
    if blind:
        return Decision("inconclusive", (first, *blind), settle)
    if case.main.consistent and largest(case) < resolution:
        return _small(case)
    possible = max(largest(case), unseen(leakage.seeds * leakage.classes))
    if possible < resolution:
        return Decision(
            "no leak detected",
            (first, f"a leakage of more than {possible:.0%} is excluded", *([str(case.gate)] if case.gate else [])),
        )
    return Decision("inconclusive", (first, f"a leakage of {possible:.0%} is not excluded either"), _more(case))


def _blind(case: Case) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return why finding nothing says nothing, and what would settle it; empty: it says something."""
    if case.gate is None:
        return ("the target's accuracy on the victim's classes is unknown",), ("utility by round in rounds.jsonl",)
    if not case.gate.learned:
        return (str(case.gate),), ("an attack on a later round, whose model has learned the victim's classes",)
    return (), ()


def largest(case: Case) -> float:
    """Return the largest leakage that the intervals leave possible: it can exceed neither its own nor A's."""
    attack = case.main.arms["A"]
    assert isinstance(attack, Estimate)
    return min(case.leakage.high, attack.high)


def _resolved(case: Case) -> Decision | None:
    return _small(case) if case.leakage.value < case.primary.resolution else None


def _small(case: Case) -> Decision:
    where, another = ("", "") if case.leakage.above_zero else ("in this run ", ", which another run need not show")
    return Decision(
        "below resolution",
        (
            f"{where}the attack beats the same attack without the victim, but by {show(case.leakage)} only{another}; "
            f"{case.primary.resolution:.0%} is the least that matters here (audit.primary.resolution)",
        ),
    )


def _explained(case: Case) -> Decision | None:
    """Judge an attack that beats B2 by what else might explain its score."""
    above = f"leakage {show(case.leakage)} lies above 0"
    for arm, what in EXPLAINED.items():
        lead = case.main.leads[arm]
        if isinstance(lead, Omitted):
            if arm == "B0":
                return Decision(
                    "inconclusive",
                    (f"{above}, but {what} was not scored: {lead.reason}",),
                    ("arm B0: audit the run again",),
                )
        elif not lead.above_zero:
            return Decision(
                "inconclusive",
                (f"{above}, but {what} ({arm}) may do as well: the lead over it is {show(lead)}",),
                _more(case, lead),
            )
    return None


def _selected(case: Case) -> Decision | None:
    """Judge an attack that is not shown to beat the public images that the model is surest of.

    Pointing at them is the model's doing only if a model without the victim points at worse ones (B4W).
    """
    lead, selection, public = case.main.leads["B4"], case.main.selection, case.main.arms["B4"]
    if isinstance(lead, Omitted) or isinstance(public, Omitted) or lead.above_zero:
        return None
    first = (
        f"public images that the model is surest of score {show(public)}: the attack's lead over them is {show(lead)}"
    )
    if lead.value >= case.primary.resolution:
        return Decision(
            "inconclusive", (f"{first}, which shows neither inversion nor mere selection",), _more(case, lead)
        )
    if isinstance(selection, Omitted):
        return Decision(
            "selected", (first, f"what a model without the victim would pick is unknown: {selection.reason}")
        )
    if selection.above_zero:
        return Decision("selected", (first, f"those a model without the victim picks score {show(selection)} less"))
    return Decision(
        "inconclusive",
        (first, f"and those that a model without the victim picks (B4W) do about as well: {show(selection)} less"),
        ("a public set that looks less like the victim's classes (data.public)", *_more(case, selection)),
    )


def _unlike(case: Case) -> Decision | None:
    resemblance, guard = case.main.resemblance, case.main.copy_guard
    if isinstance(resemblance, Omitted) or isinstance(guard, Omitted):
        return None
    if max(resemblance.value, guard.value) > ACCIDENTS:
        return None
    return Decision(
        "recognised only",
        (f"the evaluator recognises the images, but {resemblance.value:.0%} of them resemble a training image of the "
         f"victim's and {guard.value:.0%} are nearer to one than to an image the attacker holds",),
    )  # fmt: skip


def _leak(case: Case) -> Decision:
    leads = case.main.leads
    beaten = sorted(["B2", *(arm for arm, lead in leads.items() if isinstance(lead, Estimate))])
    names = ", ".join(ARMS[arm].name for arm in beaten)
    reasons = [f"leakage {show(case.leakage)} lies above 0, and the attack beats its controls: {names}"]
    reasons += [
        f"the control “{ARMS[arm].name}” was not run: {lead.reason}"
        for arm, lead in leads.items()
        if isinstance(lead, Omitted)
    ]
    public = leads["B4"]
    if isinstance(public, Estimate):
        reasons.append(f"its lead over public images that the model is surest of is {show(public)}")
    guard = case.main.copy_guard
    if isinstance(guard, Estimate) and guard.value < HALF:
        reasons.append(
            f"copy guard {guard.value:.0%}: most images are nearer to one the attacker holds than to the victim's"
        )
    unaided = case.main.arms["T1"]
    if isinstance(unaided, Estimate):
        reasons.append(f"of images optimised without any prior the evaluator recognises {show(unaided)}")
    return Decision("leak", tuple(reasons))


QUESTIONS: tuple[Callable[[Case], Decision | None], ...] = (
    _broken,
    _unattributed,
    _unread,
    _client,
    _class,
    _quiet,
    _resolved,
    _explained,
    _selected,
    _unlike,
    _leak,
)


def _contradicted(case: Case, decision: Decision) -> Decision:
    attack = case.main.arms["A"]
    assert isinstance(attack, Estimate)
    if case.gate is None or case.gate.learned or attack.value <= case.gate.accuracy:
        return decision
    mark = (
        f"contradiction: the attack scores {attack.value:.0%}, yet the model reads only {case.gate.accuracy:.0%} of "
        "real images of these classes (not learned yet)"
    )
    return replace(decision, mark=mark, reasons=(decision.reasons[0], mark, *decision.reasons[1:]))


def _more(case: Case, unclear: Estimate | None = None) -> tuple[str, ...]:
    """Return what would make the interval of ``unclear`` (the leakage) narrow enough."""
    measure = unclear or case.leakage
    if measure.seeds > 1:
        return (f"about {_seeds(measure, case.primary.resolution)} seeds at this spread ({measure.seeds} now)",)
    ways = [f"{WANTED_SEEDS} seeds or more (fedinverse sweep)"]
    if case.main.between.worlds < FEWEST_WORLDS and len(measure.errors) > 1:
        ways.append(
            f"several control worlds (audit.control_worlds = {WANTED_WORLDS}): without them one run is assumed to "
            f"differ from the next by {case.main.between.deviation:.0%} (audit.primary.between_runs)"
        )
    if measure.classes < FEWEST_CLASSES:
        least = math.ceil(math.log(1 - LEVEL) / math.log(1 - case.primary.resolution))
        ways.append(f"more victim classes: {measure.classes} now, {least} or more where none shows")
    return tuple(ways)


def _seeds(estimate: Estimate, resolution: float) -> int:
    """Return with how many seeds the interval would leave 0 or the resolution, if value and spread stayed."""
    spread = estimate.errors[0].deviation * math.sqrt(estimate.seeds)
    room = max(estimate.value if estimate.value >= resolution else resolution - estimate.value, 0.05)
    for seeds in range(estimate.seeds + 1, MOST_SEEDS):
        error = replace(estimate.errors[0], deviation=spread / math.sqrt(seeds), freedom=seeds - 1)
        if error.half_width((1 + LEVEL) / 2) < room:
            return seeds
    return MOST_SEEDS


def sentence(decision: Decision, case: Case, attacks: list[str]) -> str:
    """Return the verdict in one sentence."""
    attack, public = case.main.arms["A"], case.main.arms["B4"]
    assert isinstance(attack, Estimate)
    where = f"{case.main.attack} at round {case.main.round}"
    if decision.outcome == "inconclusive":
        return f"{TITLES['inconclusive']}: {where} allows no verdict; it would take {decision.settle[0]}."
    said = TITLES[decision.outcome] + (" in this run" if attack.seeds == 1 else f" over {attack.seeds} seeds")
    beyond = "of the victim's classes beyond what the same attack shows without the victim"
    whose = case.main.attribution
    rest = f"what {where} made {of_whom}" if whose is not None and (of_whom := _of_whom(decision, whose)) else ""
    match decision.outcome:
        case _ if rest:
            pass
        case "leak":
            rest = f"{where} shows {show(case.leakage)} {beyond}"
        case "selected":
            assert isinstance(public, Estimate)
            rest = (
                f"{attack.value:.0%} of what {where} made is recognised, but so are {public.value:.0%} of the public "
                "images that the model is surest of"
            )
        case "recognised only":
            rest = f"{attack.value:.0%} of what {where} made is recognised, yet none is like the victim's"
        case "below resolution":
            rest = f"{where} shows {show(case.leakage)} {beyond}; {case.primary.resolution:.0%} was asked for"
        case "no leak detected":
            possible = max(largest(case), unseen(attack.seeds * attack.classes))
            said = f"{said}, relative to these attacks"
            rest = f"{', '.join(attacks)}. A leakage of more than {possible:.0%} by {where} is excluded"
    return f"{said}: {rest}."


def _of_whom(decision: Decision, whose: Attribution) -> str:
    """Return, of a victim who shares their classes, whose images are shown; empty: the outcome does not say."""
    even = f"lead {show(whose.others)}, 0% is even"
    match decision.outcome:
        case "leak" if whose.nearer or whose.copies_shown:
            return "shows the client's own training images, not only what their classes look like"
        case "below resolution" if whose.nearer:
            return f"is nearer to the client's own training images than to others', but by {even} only"
        case "the class, not the client":
            return (
                f"shows classes that others hold too, and is no nearer to this client's images than to theirs ({even})"
            )
    return ""


def show(estimate: Estimate) -> str:
    """Return a share with its interval as text."""
    return f"{estimate.value:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"
