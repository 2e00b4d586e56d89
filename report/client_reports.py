"""What the clients of a federation said, in a few lines for the terminal: who failed, and what privacy was spent."""

from rich.markup import escape

from fedinverse.layout import World
from fedinverse.records import ClientLine
from fedinverse.run import Run
from fedinverse.storage import read_json
from fedinverse.words import plain

_SPENT = {"epsilon": "by their own noise", "central_epsilon": "by noise on the average"}


def what_clients_said(run: Run, world: World) -> list[str]:
    """Return the lines, in rich's markup; none if every client did its part and no noise is accounted."""
    failed: dict[int, dict[int, str]] = {}
    for line in ClientLine.read_all(run.files.server.client_reports(world)):
        if line.error:
            failed.setdefault(line.partition, {})[line.round] = line.error
    lines = [
        f"  [yellow]client {partition} failed in round {', '.join(map(str, sorted(errors)))}[/yellow]: "
        + escape(plain(errors[max(errors)]))
        for partition, errors in sorted(failed.items())
    ]
    path = run.files.server.privacy(world)
    spent = read_json(path).values() if path.exists() else ()
    for key, how in _SPENT.items():
        epsilons = sorted(float(entry[key]) for entry in spent if key in entry)
        if epsilons:
            least, most = f"{epsilons[0]:.3g}", f"{epsilons[-1]:.3g}"
            span = least if least == most else f"{least} to {most}"
            deltas = max(float(entry[key.replace("epsilon", "delta")]) for entry in spent if key in entry)
            lines.append(f"  epsilon {span} spent by {len(epsilons)} clients {how}, delta {deltas:g}")
    return lines
