"""What the page says of an active participant: what it won, what that cost the model, whether it showed."""

from collections.abc import Mapping

from auditor.activity import ActiveReport
from auditor.verdict import Missing
from fedinverse.layout import PASSIVE, WITH_VICTIM, World
from report.table import Panel, Table
from report.text import NONE, percent, precise

_WORLDS = {WITH_VICTIM: "attacker active", PASSIVE: "attacker passive"}
SEEN = {
    "updates": "updates that the server was sent",
    "length (z)": "of the update against the others of its round, in standard deviations; mean over rounds",
    "cosine": "with the mean of the others' updates",
    "Krum place": "0 %: the one that Krum trusts most, 100 %: least",
    "Krum": "share of rounds in which Multi-Krum, expecting one hostile client, would have left it out",
    "median": "in which it lay unusually far from the coordinate-wise median",
    "trimmed mean": "in which a mean trimmed by a tenth on each side would have left out most of it",
}


def active_figures(report: ActiveReport, pictures: Mapping[World, bytes]) -> Panel:
    """Return what the page shows of ``report``; ``pictures``: samples of the generator by world."""
    rows = [[name, precise(figure)] for name, figure in report.leakage.items()]
    rows.append([f"difference from {report.control}", precise(report.difference)])
    gained = Table(f"What it won: {report.gain}", ["", "figure"], rows, {}, report.notes)
    captions = {world: f"Samples of its generator, {_world(world)}" for world in pictures}
    sheets = [(f"{caption}.", caption, pictures[world]) for world, caption in captions.items()]
    return Panel(report.kind, [gained, utility_table(report), *seen_tables(report)], sheets)


def utility_table(report: ActiveReport) -> Table:
    """Return the model's accuracy after the last round in every world."""
    rows = [[_world(world), percent(both), percent(victims)] for world, (both, victims) in report.accuracy.items()]
    return Table("What it cost the model", ["federation", "accuracy", "victim's classes"], rows)


def seen_tables(report: ActiveReport) -> list[Table]:
    """Return what the server could see of updates; none: nothing was noted."""
    if isinstance(report.visible, Missing):
        return []
    rows = [
        [
            seen.whose,
            str(seen.updates),
            NONE if seen.z is None else f"{seen.z:+.1f}",
            NONE if seen.cosine is None else f"{seen.cosine:.2f}",
            percent(seen.krum, 0),
            *(percent(share, 0) for share in seen.dropped.values()),
        ]
        for seen in report.visible
    ]
    header = ["whose", "updates", "length (z)", "cosine", "Krum place", *report.visible[0].dropped]
    return [Table("Would the server have noticed?", header, rows, SEEN)]


def _world(world: World) -> str:
    return _WORLDS.get(world, "without the victim" + world.removeprefix("without_victim").replace("-", " "))
