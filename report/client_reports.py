"""What the clients of a federation said, in a few lines for the terminal: who failed, and what privacy was spent."""

from rich.markup import escape

from fedinverse.layout import World
from fedinverse.records import ClientLine, Noise, PrivacySpent
from fedinverse.run import Run
from fedinverse.words import plain

_SPENT: dict[Noise, str] = {"own": "by their own noise", "central": "by noise on the average"}


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
    accounts = [each.spent for each in PrivacySpent.read_all(run.files.server.privacy(world)).values()]
    for noise, how in _SPENT.items():
        spent = sorted(account[noise] for account in accounts if noise in account)
        if spent:
            least, most = f"{spent[0][0]:.3g}", f"{spent[-1][0]:.3g}"
            span = least if least == most else f"{least} to {most}"
            delta = max(delta for _, delta in spent)
            lines.append(f"  epsilon {span} spent by {len(spent)} clients {how}, delta {delta:g}")
    return lines
