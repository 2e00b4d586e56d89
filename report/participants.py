"""Who took part: every client's images, role, defence, and what it said of its training."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from fedinverse.layout import World
from fedinverse.records import ClientLine, Noise, PrivacySpent
from fedinverse.run import Run
from fedinverse.split import holdings
from fedinverse.words import plain
from report.table import Table
from report.text import share

COMMON = {"round", "partition", "defence", "num-examples", "train-loss", "train-accuracy"}
"""What every client reports; whatever else its defence tells has a column of its own."""


OF_CLIENTS = {
    "classes": "of how many classes it holds images",
    "rounds trained": "in how many rounds it was drawn and answered",
    "its last training accuracy": "as the client itself reported it, on its own images while training",
    "epsilon": "differential privacy that it reports to have spent so far",
}


def clients_table(run: Run, defences: Mapping[int, str]) -> Table:
    """Return one row per client; a report is the last that client sent. ``defences``: by client."""
    population = run.population
    counts = holdings(run.split, population.clients, len(run.class_names))
    by_client: dict[int, list[ClientLine]] = {client: [] for client in range(population.clients)}
    for line in ClientLine.read_all(run.files.server.client_reports("with_victim")):
        by_client[line.partition].append(line)
    extra = sorted({key for lines in by_client.values() for line in lines for key in line.row.keys() - COMMON})
    rows = []
    for client, lines in by_client.items():
        last = lines[-1].row if lines else {}
        rows.append([
            f"client {client}",
            population.role_of(client),
            str(int(counts[client].sum())),
            str(int((counts[client] > 0).sum())),
            defences[client],
            str(len({line.round for line in lines if not line.error})),
            share(last.get("train-accuracy")),
            *(_text(last.get(key)) for key in extra),
        ])  # fmt: skip
    header = ["", "role", "images", "classes", "defence", "rounds trained", "its last training accuracy"]
    return Table("Clients, and what each last reported of its training", [*header, *extra], rows, OF_CLIENTS)


def cohorts_table(run: Run, defences: Mapping[int, str]) -> Table | None:
    """Return one row per cohort of defended clients; None without any. ``defences``: by client."""
    cohorts = run.table.get("cohorts", [])
    if not cohorts:
        return None
    rows = [
        [
            cohort["defence"],
            str(sum(name == cohort["defence"] for name in defences.values())),
            "those listed" if cohort.get("clients") else f"{cohort['fraction']:.0%} drawn",
            ", ".join(
                f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
                for key, value in cohort["settings"].items()
            )
            or "defaults",
        ]
        for cohort in cohorts
    ]
    undefended = sum(name == "none" for name in defences.values())
    return Table(
        f"Cohorts of defended clients; {undefended} of {len(defences)} clients train without a defence",
        ["defence", "clients", "chosen", "settings"],
        rows,
    )


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


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
