"""The threat model of a run in words: who holds what, and what the attacker sees."""

import numpy as np

from auditor.questions import QUESTIONS
from fedinverse.config import Data
from fedinverse.folders import spelled_alike
from fedinverse.run import Run
from fedinverse.split import holdings, remarks
from fedinverse.tables import Table
from fedinverse.words import plain
from report.text import span

NAMES = 12  # classes that are named; a threat model is read at a glance


def threat_model(run: Run) -> list[tuple[str, str]]:
    """Return (who, what) pairs, for the terminal and the report."""
    if "weights_file" in run.table:
        return [*_of_file(run), *_left_out(run)]
    population, split, cohorts = run.population, run.split, run.table.get("cohorts", [])
    held = holdings(split, population.clients, len(run.class_names)).sum(1)
    others = np.delete(held, population.victim) if run.victim_classes else held
    public, federation = run.pools["public"].about, run.table.get("federation", {})
    victims = _listed([run.class_names[label] for label in run.victim_classes])
    defences = "; ".join(
        f"{cohort['defence']} on "
        + (f"clients {cohort['clients']}" if cohort.get("clients") else f"{cohort['fraction']:.0%} of the clients")
        for cohort in cohorts
    )
    shared = f", {population.overlap:.0%} of each other's too" if population.overlap else ""
    victim, all_but = ("none: no class is one client's alone", "")
    if population.victim_classes:
        who = f"client {_name(run, population.victim)}"
        victim = f"{who}: {int(held[population.victim])} images, the only one with classes {victims}"
        all_but = ", none of a victim class"
    elif population.shares_classes:
        victim = (
            f"client {_name(run, population.victim)}: {int(held[population.victim])} images of classes {victims}, "
            "which others may hold too: are the victim's images shown, or only what the classes look like?"
        )
    attacker = [("Attacker", "none: every client is honest")]
    if population.attackers:
        attacker = [
            (
                "Attacker",
                f"client {', '.join(_name(run, client) for client in population.attackers)}: trains honestly, keeps "
                "every model it is sent in train and evaluate messages, inverts offline",
            ),
            ("Actively", _actively(run)),
            (
                "It sees",
                f"the weights, its own shard, the class list, {public['count']} public images "
                f"({source_of(run, 'public')}); no private image, no other client's update",
            ),
        ]
    lines = [
        *(_of_app(run) if "app" in run.table else _of_ours(run, federation)),
        ("Victim", victim),
        (
            "Others",
            f"{span(int(others.min()), int(others.max()))} images each{shared}{all_but}; "
            f"defences: {defences or 'none'}",
        ),
        *attacker,
        ("Asked", _asked(run)),
        ("Server sees", _seen_by_server(run, federation)),
        (
            "Auditor",
            f"{int((split['part'] == 'vault').sum())} vault images and {int((split['part'] == 'reserve').sum())} in "
            "reserve that no client holds",
        ),
    ]
    lines += _left_out(run)
    alike = [" and ".join(f"'{name}'" for name in group) for group in spelled_alike(run.class_names)]
    if alike:
        lines.append(("Alike", plain(f"{'; '.join(alike[:3])} are taken as different classes, though they read alike")))
    if run.section("data", Data).allow_overlap:
        lines.append(("Overlap", "public and victim classes may overlap: allowed by data.allow_overlap"))
    return lines


def _left_out(run: Run) -> list[tuple[str, str]]:
    left_out = [
        *(f"{name}: {line}" for name, pool in run.pools.items() for line in pool.about.get("left_out", ())),
        *(f"private: {line}" for line in remarks(run.split, run.class_names)),
    ]
    return [("Left out", plain("; ".join(left_out)))] if left_out else []


def source_of(run: Run, pool: str) -> str:
    """Return where the images of ``pool`` are from: a data source; of somebody's app, the function that gave them."""
    source = str(run.pools[pool].about["source"])
    function = str(run.table.get("app", {}).get({"private": "data"}.get(pool, pool), ""))
    return plain(function) if source == "arrays" and ":" in function else source


def _of_file(run: Run) -> list[tuple[str, str]]:
    """Return what is said of a weights file that is audited without a federation."""
    file, public, parts = run.table["weights_file"], run.pools["public"].about, run.split["part"]
    victims = _listed([run.class_names[label] for label in run.population.victim_classes])
    counts = {part: int((parts == part).sum()) for part in ("train", "vault", "reserve")}
    trained = "that it was not trained on" if file["held_out"] else "that it may have been trained on, too"
    return [
        ("Model", f"{plain(file['file'])}, network {run.model.name} (width {run.model.width:g})"),
        ("Private", f"{counts['train']} images that it was trained on; classes attacked: {victims}"),
        (
            "Attacker",
            f"has the file, the class list and {public['count']} public images ({source_of(run, 'public')}); "
            "no private image",
        ),
        (
            "Control world",
            "none: no model without the victim is at hand, so that nothing can be attributed to the victim",
        ),
        ("Auditor", f"{counts['vault']} vault images and {counts['reserve']} in reserve {trained}"),
    ]


def _actively(run: Run) -> str:
    """Return what the attacker does beside training honestly."""
    active = run.table.get("active")
    if not active:
        return "it does nothing: what it sends is an honest client's update"
    return {
        "gan": f"it adds {active.get('images')} generated images under a wrong label to its own in every round and "
        "trains honestly on all of them",
        "ascent": "it raises the loss of half of the records it asks about before it sends its update",
    }.get(str(active["kind"]), f"it is active: {active['kind']}")


def _asked(run: Run) -> str:
    """Return which of the four questions this run asks."""
    asked = [question.text for question in QUESTIONS if question.asked(run.table)]
    return f"{len(asked)} of {len(QUESTIONS)} questions: {' '.join(asked)}" if asked else "nothing: no attack is run"


def _seen_by_server(run: Run, federation: Table) -> str:
    """Return what the server could see, of the clients and of the attacker."""
    hidden = "app" not in run.table and federation["secure_aggregation"]["enabled"]
    seen = "sums of updates, never one client's own" if hidden else "every update, with the number of images behind it"
    if not run.population.attackers:
        return seen
    if run.table.get("active"):
        return f"{seen}; the active attacker's are among them, and may show"
    return f"{seen}; it cannot notice an attacker that only keeps what it is sent"


def _of_ours(run: Run, federation: Table) -> list[tuple[str, str]]:
    """Return what is said of a federation of our server and clients."""
    federates = (
        f"{run.population.clients} clients, {federation['rounds']} rounds of {federation['strategy']}, "
        f"{federation['fraction_train']:.0%} train per round, {federation['fraction_evaluate']:.0%} evaluate; "
        f"model {run.model.name} (width {run.model.width:g})"
    )
    return [("Federation", federates), *_aggregation(federation)]


def _of_app(run: Run) -> list[tuple[str, str]]:
    """Return what is said of a federation of somebody's app."""
    app = run.table["app"]
    settings = ", ".join(f"{key} = {value}" for key, value in app["run_config"].items()) or "no settings"
    hidden = (
        "the victim's node is hidden"
        if app["without"] == "client"
        else "the victim's classes are taken out of the data"
    )
    return [
        (
            "Federation",
            f"{run.population.clients} clients of the app '{app['name']}', its own server, strategy, training and data "
            f"({settings}); model {app['model']}",
        ),
        ("Control world", f"the same without the victim: {hidden}"),
    ]


def _listed(names: list[str]) -> str:
    """Return ``names`` with commas; of many, the first ones and how many more."""
    listed = [plain(name, 60) for name in names[:NAMES]]
    more = len(names) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")


def _name(run: Run, client: int) -> str:
    """Return a client's number, and its name where the clients are those of the source."""
    named = run.population.partition == "folders"
    return f"{client} ({plain(run.pools['private'].client_names[client], 60)})" if named else str(client)


def _aggregation(federation: Table) -> list[tuple[str, str]]:
    """Return what the server puts around its strategy; nothing when that is nothing."""
    privacy, added = federation["privacy"], []
    if privacy["kind"] != "none":
        added.append(f"differential privacy {privacy['kind']}, noise multiplier {privacy['noise_multiplier']:g}")
    if federation["secure_aggregation"]["enabled"]:
        added.append("secure aggregation: the server sees no client's own update")
    return [("Aggregation", "; ".join(added))] if added else []
