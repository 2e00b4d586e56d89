"""Stage 4: gather a run's figures and write ``report.html``."""

from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from auditor.report import Figures, render
from auditor.report.curve import curve_svg
from auditor.scores import ACCURACY, CONFIDENCE, mean_over_classes
from auditor.settings import Audit
from fedinverse.run import Run
from fedinverse.storage import atomic_write, read_json, read_jsonl
from pipeline.audit import victim_scores, victim_utility
from pipeline.console import percent
from pipeline.invert import inversions_of


def report(run: Run) -> Path:
    """Write the page; return its path. A run without attacks gets a page about its utility."""
    scored = run.audit / "scores.parquet"
    scores = pd.read_parquet(scored) if scored.exists() else None
    path = run.path / "report.html"
    atomic_write(path, render(_figures(run, scores)))
    return path


def _figures(run: Run, scores: pd.DataFrame | None) -> Figures:
    rounds = [line for line in {line["round"]: line for line in read_jsonl(run.rounds("with_victim"))}.values()]
    names, victims = run.class_names, run.population.victim_classes
    utility = (
        ["", "all classes", *(f"class {names[label]}" for label in victims)],
        [
            [f"round {line['round']}", percent(line["accuracy"]), *(percent(line["class-accuracy"][k]) for k in victims)]
            for line in rounds
        ],
    )
    empty: tuple[list[str], list[list[str]]] = ([], [])
    common: dict[str, Any] = {
        "title": str(run.table["name"]),
        "utility": utility,
        "threat": _threat(run),
        "config": tomli_w.dumps(_without_none(run.table)),
    }
    if scores is None:
        last = rounds[-1]
        headline = f"No attack was run. After round {last['round']} the model reads {percent(last['accuracy'])} of the reserve."
        return Figures(headline=headline, notes=[], curves=[], grids=[], leakage=empty, classes=empty, cost=[], **common)

    gate = run.section("audit", Audit).gate
    known = victim_utility(run, scores)
    means = mean_over_classes(victim_scores(run, scores))
    attacks = list(means.index.get_level_values("attack").unique())
    return Figures(
        headline=_headline(run, means, known),
        notes=_notes(run, means, known, gate),
        curves=[(attack, curve_svg(means.loc[attack], known, gate)) for attack in attacks],
        grids=_grids(run, means),
        leakage=_leakage(means, known, gate),
        classes=_classes(run, scores, means),
        cost=_cost(run),
        **common,
    )


def _last(means: pd.DataFrame) -> tuple[str, int, pd.Series]:  # type: ignore[type-arg]
    """Return (attack, round, its row) of the last attacked round; of several attacks, the strongest there."""
    attacked = means.dropna(subset=["A"])
    last = int(attacked.index.get_level_values("round").max())
    there = attacked.xs(last, level="round")
    attack = str(there["A"].idxmax())
    return attack, last, there.loc[attack]


def _control(means: pd.DataFrame, attack: str, arm: str) -> float | None:
    values = means.loc[attack][arm].dropna() if arm in means else pd.Series(dtype=float)
    return float(values.iloc[0]) if len(values) else None


def _headline(run: Run, means: pd.DataFrame, known: dict[int, float]) -> str:
    attack, last, row = _last(means)
    names = [run.class_names[label] for label in run.population.victim_classes]
    b1, b2 = _control(means, attack, "B1"), _control(means, attack, "B2")
    controls = [f"prior only {percent(row['B0'])}"]
    controls += [f"untrained model {percent(b1)}"] if b1 is not None else []
    controls += [f"without the victim {percent(b2)}"] if b2 is not None else []
    return (
        f"From the global model of round {last}, one participant reconstructed the victim's classes "
        f"({', '.join(names)}) so that {percent(row['A'])} of its images are recognised. Controls: {', '.join(controls)}."
    )


def _notes(run: Run, means: pd.DataFrame, known: dict[int, float], gate: float) -> list[str]:
    notes = []
    _, last, _ = _last(means)
    if known[last] < gate:
        notes.append(
            f"Round {last}: not learned yet. The model reads {percent(known[last])} of the victim's classes, below the "
            f"gate of {percent(gate)}; a low figure says nothing about safety."
        )
    if run.table["data"]["allow_overlap"]:
        notes.append("data.allow_overlap is on: public and victim classes may overlap, so a success may be the attacker's own data.")
    if len(run.population.victim_classes) < 20:
        notes.append(
            f"Too few classes ({len(run.population.victim_classes)}) for class-level intervals: read the differences to "
            "the controls, and repeat with other seeds."
        )
    return notes


def _leakage(means: pd.DataFrame, known: dict[int, float], gate: float) -> tuple[list[str], list[list[str]]]:
    rows = []
    for (attack, number), row in means.dropna(subset=["A"]).iterrows():  # type: ignore[misc]
        controls = [percent(_control(means, str(attack), arm)) for arm in ("B1", "B2")]
        learned = "" if known[int(number)] >= gate else "not learned yet"
        rows.append([f"{attack}, round {number}", percent(known[int(number)]), percent(row["A"]), percent(row["B0"]), *controls, learned])
    return ["", "model on victim", "attack", "prior only", "untrained", "no victim", ""], rows


def _classes(run: Run, scores: pd.DataFrame, means: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    attack, last, _ = _last(means)
    mine = victim_scores(run, scores)
    mine = mine[(mine["attack"] == attack) & (mine["arm"] == "A") & (mine["round"] == last)]
    wide = mine.pivot_table(index="label", columns="metric", values="value")
    counts = mine.groupby("label")["count"].first()
    rows = [
        [f"class {run.class_names[int(str(label))]}", str(counts[label]), percent(row[ACCURACY]), percent(row[CONFIDENCE])]
        for label, row in wide.iterrows()
    ]
    return ["", "images", "read by the evaluator", "target's confidence"], rows


def _grids(run: Run, means: pd.DataFrame) -> list[tuple[str, str, bytes]]:
    shown = []
    for attack in means.index.get_level_values("attack").unique():
        last = int(means.loc[attack].dropna(subset=["A"]).index.max())
        for arm, caption in (
            ("A", f"Attack “{attack}”, round {last}: left the reconstructions the attacker would keep (highest target "
                  "confidence), right the victim's training image nearest to each."),
            ("B0", f"Control: unoptimised samples of the same prior (round {last}), with the nearest victim image of the row's class."),
        ):  # fmt: skip
            path = run.audit / "grids" / f"{attack}-{arm}-round-{last:04d}.png"
            if path.exists():
                what = "reconstructions" if arm == "A" else "prior samples"
                shown.append((caption, f"Grid of {what}, one row per victim class, beside nearest private images", path.read_bytes()))
    return shown


def _threat(run: Run) -> list[tuple[str, str]]:
    population, split = run.population, run.split
    held = split[split["part"] == "train"].groupby("client").size()
    public = run.pools["public"].about
    victims = ", ".join(run.class_names[label] for label in population.victim_classes)
    return [
        ("victim", f"client {population.victim}, {int(held[population.victim])} images, the only one with classes {victims}"),
        ("others", f"{population.clients - 1} clients, {int(held.drop([population.victim]).sum())} images of the other classes"),
        ("attacker", f"client {', '.join(map(str, population.attackers))}: trains honestly and keeps what it is sent"),
        ("it sees", f"weights, its own shard, the class list, {public['count']} public images ({public['source']})"),
        ("it does not see", "private images, other clients' updates, the evaluator"),
        ("evaluator", f"trained on {int((split['part'] == 'vault').sum())} vault images; reads "
                      f"{percent(_ceiling(run))} of reserve images"),
    ]  # fmt: skip


def _ceiling(run: Run) -> float | None:
    path = run.audit / "summary.json"
    return float(read_json(path)["ceiling"]) if path.exists() else None


def _cost(run: Run) -> list[tuple[str, str]]:
    rows = []
    for (label, weights), inversion in inversions_of(run).items():
        about = inversion.about
        cost = about["cost"]
        rows.append((
            f"{label}, {weights.stem}",
            f"prior {about['prior-seconds']:.0f} s, inversion {cost['seconds']:.0f} s, {cost['target_queries']:,} target "
            f"queries, {cost['steps']:,} steps, {about['failed']} failed",
        ))  # fmt: skip
    return rows


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
