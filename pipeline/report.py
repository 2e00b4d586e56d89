"""Stage 4: gather a run's figures and write ``report.html``."""

from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from auditor.report import Figures, render
from auditor.report.curve import curve_svg
from auditor.scores import ACCURACY, CONFIDENCE
from auditor.settings import Audit
from auditor.summary import CONTROLS, RoundSummary
from fedinverse.config import Data
from fedinverse.run import Run
from fedinverse.storage import atomic_write, read_json
from pipeline.audit import known_by_round, summary_of
from pipeline.console import percent
from pipeline.invert import inversions_of
from pipeline.threat import threat_model

Grid = tuple[list[str], list[list[str]]]


def report(run: Run) -> Path:
    """Write the page; return its path. A run without attacks gets a page about its utility."""
    scored = run.audit / "scores.parquet"
    scores = pd.read_parquet(scored) if scored.exists() else None
    path = run.path / "report.html"
    atomic_write(path, render(_figures(run, scores)))
    return path


def _figures(run: Run, scores: pd.DataFrame | None) -> Figures:
    rounds = run.recorded_rounds("with_victim")
    names, victims = run.class_names, run.population.victim_classes
    utility = (
        ["", "all classes", *(f"class {names[label]}" for label in victims)],
        [
            [
                f"round {line['round']}",
                percent(line["accuracy"]),
                *(percent(line["class-accuracy"][k]) for k in victims),
            ]
            for line in rounds
        ],
    )
    empty: Grid = ([], [])
    common: dict[str, Any] = {
        "title": str(run.table["name"]),
        "utility": utility,
        "threat": [*threat_model(run), ("Evaluator", f"reads {percent(_ceiling(run))} of real reserve images")],
        "config": tomli_w.dumps(_without_none(run.table)),
    }
    if scores is None:
        last = rounds[-1]
        read = percent(last["accuracy"])
        headline = f"No attack was run. After round {last['round']} the model reads {read} of the reserve."
        return Figures(
            headline=headline,
            finding="",
            notes=[],
            curves=[],
            grids=[],
            leakage=empty,
            classes=empty,
            cost=[],
            **common,
        )

    known = known_by_round(run)
    lines = summary_of(run, scores)
    gate = run.section("audit", Audit).primary.gate
    verdict = read_json(run.path / "verdict.json")
    by_attack = {line.attack: [other for other in lines if other.attack == line.attack] for line in lines}
    return Figures(
        headline=verdict["sentence"],
        finding=_finding(run, _strongest(lines)),
        notes=_notes(run, verdict),
        curves=[(attack, curve_svg(mine, known, gate)) for attack, mine in by_attack.items()],
        grids=[grid for attack, mine in by_attack.items() for grid in _grids(run, attack, mine[-1].round)],
        leakage=_leakage(lines),
        classes=_classes(run, scores, _strongest(lines)),
        cost=_cost(run),
        **common,
    )


def _strongest(lines: list[RoundSummary]) -> RoundSummary:
    """Return the strongest attack of the last attacked round."""
    last = max(line.round for line in lines)
    return max((line for line in lines if line.round == last), key=lambda line: line.recognised)


def _finding(run: Run, line: RoundSummary) -> str:
    names = ", ".join(run.class_names[label] for label in run.population.victim_classes)
    controls = [f"{CONTROLS[arm]} {percent(share)}" for arm, share in line.controls.items() if share is not None]
    return (
        f"From the global model of round {line.round}, attack “{line.attack}” made images of the victim's classes "
        f"({names}), {percent(line.recognised)} of which are recognised. Controls: {', '.join(controls)}."
    )


def _notes(run: Run, verdict: dict[str, Any]) -> list[str]:
    notes = [f"{reason[0].upper()}{reason[1:]}." for reason in verdict["reasons"]]
    if run.section("data", Data).allow_overlap:
        notes.append(
            "data.allow_overlap is on: public and victim classes may overlap, so a success may be the attacker's own."
        )
    return notes


def _leakage(lines: list[RoundSummary]) -> Grid:
    rows = [
        [
            f"{line.attack}, round {line.round}",
            *map(percent, (line.known, line.recognised, line.resembling, *line.controls.values())),
            "" if line.learned else "not yet",
        ]
        for line in lines
    ]
    return ["", "model on victim", "attack", "resembling", *CONTROLS.values(), ""], rows


def _classes(run: Run, scores: pd.DataFrame, line: RoundSummary) -> Grid:
    mine = scores[(scores["attack"] == line.attack) & (scores["arm"] == "A") & (scores["round"] == line.round)]
    rows = []
    for label in run.population.victim_classes:
        own = mine[mine["label"] == label]
        if len(own):
            shares = [
                percent(float(own.loc[own["metric"] == metric, "value"].mean())) for metric in (ACCURACY, CONFIDENCE)
            ]
            rows.append([f"class {run.class_names[label]}", str(own["count"].iloc[0]), *shares])
    return ["", "images", "read by the evaluator", "target's confidence"], rows


def _grids(run: Run, attack: str, server_round: int) -> list[tuple[str, str, bytes]]:
    kinds = {
        "A": (
            f"Attack “{attack}”, round {server_round}: left the reconstructions the attacker would keep (highest "
            "target confidence), right the victim's training image nearest to each.",
            "Reconstructions, one row per victim class, beside the nearest private images",
        ),
        "B4": (
            f"Control: no attack, only the public images that the model of round {server_round} takes for the class.",
            "Public images chosen by the target, one row per victim class, beside the nearest private images",
        ),
        "B0": (
            f"Control: unoptimised samples of the same prior (round {server_round}), with the nearest victim image of "
            "the row's class.",
            "Unoptimised prior samples, one row per victim class, beside the nearest private images",
        ),
    }
    shown = []
    for arm, (caption, alternative) in kinds.items():
        path = run.audit / "grids" / f"{attack}-{arm}-round-{server_round:04d}.png"
        if path.exists():
            shown.append((caption, alternative, path.read_bytes()))
    return shown


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
            f"prior {about['prior-seconds']:.0f} s, inversion {cost['seconds']:.0f} s, {cost['target_queries']:,} "
            f"target queries, {cost['steps']:,} steps, {about['failed']} failed",
        ))  # fmt: skip
    return rows


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
