"""The verdict for somebody who decides: a sentence without a technical word, what qualifies it, what to do next."""

from auditor.decision import FOUND, TITLES, Outcome
from auditor.verdict import Interval, Missing, Verdict
from report.text import readable, share

_NEXT: dict[Outcome, str] = {
    "leak": "Treat every participant as able to see what these classes look like. Compare defences on this federation "
    "before it runs on real data (“fedinverse sweep defences/sweep”), and repeat with three seeds or more before the "
    "figure is relied on.",
    "selected": "The model tells which public images look like the victim's classes. If that is too much already, "
    "compare defences as for a leak; otherwise repeat with public images that look less like them.",
    "recognised only": "A classifier is satisfied where a person would see nothing. Look at the pictures, have people "
    "judge them, and repeat with a stronger prior before anything is concluded.",
    "below resolution": "Decide whether a difference of this size matters. To be sure of its size, repeat with more "
    "seeds, or set a finer audit.primary.resolution before the next run.",
    "the class, not the client": "What leaks is what the classes look like, and others' images show that as well. "
    "Decide whether that is a secret; if so, compare defences as for a leak. Whether single records were used for "
    "training is another question, which [membership] asks.",
    "no leak detected": "Repeat with the other attacks, a better prior and later rounds: an attack that was not run "
    "may still succeed.",
    "inconclusive": "Nothing should be decided on this run.",
}


def sentence(verdict: Verdict) -> tuple[str, str]:
    """Return the verdict as (the words that name the outcome, the rest of the sentence, and its two figures)."""
    title = TITLES[verdict.outcome] + (" in this run" if verdict.seeds == 1 and verdict.outcome in FOUND else "")
    less = share(verdict.primary.resolution)
    own_images = not isinstance(verdict.main.attribution, Missing) and verdict.main.attribution.answer == "the client"
    shows = "the victim's own training images" if own_images else "images of the victim's classes"
    rest: dict[Outcome, str] = {
        "leak": f"from the shared model one participant made {shows}.",
        "selected": "the shared model gives away which public images look like the victim's classes, and the attack "
        "adds nothing to that.",
        "recognised only": "a classifier recognises the victim's classes in images made from the shared model, but "
        "they look like none of the victim's images.",
        "below resolution": "images made from the shared model show the victim's classes a little more often when the "
        f"victim takes part, by less than the {less} this audit was to find.",
        "the class, not the client": "images made from the shared model show the classes, and are no nearer to this "
        "client's images than to those of others who hold the same classes.",
        "no leak detected": "images made from the shared model show the victim's classes no more often when the "
        "victim takes part.",
        "inconclusive": "this audit cannot tell whether the shared model gives the victim's classes away.",
    }
    return title, f": {rest[verdict.outcome]} {_with_and_without(verdict)}".rstrip()


def _with_and_without(verdict: Verdict) -> str:
    attack, without = (verdict.main.arms[arm] for arm in ("A", "B2"))
    if isinstance(attack, Missing):
        return ""
    what = _counted_as(verdict)
    if isinstance(without, Missing):
        return f"{share(attack.value)} of the images {what}; how many without the victim was not tried."
    return f"{share(attack.value)} of the images {what}, against {share(without.value)} without the victim."


def _counted_as(verdict: Verdict) -> str:
    return "resemble them" if verdict.primary.metric == "resemblance" else "are recognised"


def qualification(verdict: Verdict) -> str:
    """Return the one sentence that must be read with the verdict: what public images alone would have shown."""
    attack, public = (verdict.main.arms[arm] for arm in ("A", "B4"))
    if not isinstance(public, Interval):
        return "Whether public images alone would be recognised as often was not tried."
    picked = "of the attacker's public images, picked with the model's help but not changed"
    if not isinstance(attack, Interval) or attack.value <= 0 or public.value < 0.25 * attack.value:
        return f"For comparison: {picked}, {share(public.value)} {_counted_as(verdict)}."
    much = "all" if public.value >= attack.value else "most" if public.value >= 0.5 * attack.value else "part"
    return (
        f"{picked.capitalize()}, {share(public.value)} {_counted_as(verdict)} as well: {much} of the share above can "
        "be reached without making a single image."
    )


def next_steps(verdict: Verdict) -> list[str]:
    """Return what to do now, the most important first; never empty."""
    settle = [f"To settle it: {readable(way)}." for way in verdict.settle]
    return [_NEXT[verdict.outcome], *settle]
