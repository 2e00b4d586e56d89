"""Stage 3: the auditor judges what the attacker made, beside its controls."""

from pathlib import Path

import pandas as pd

from attacker.inversion import PRIOR_ONLY, RECONSTRUCTIONS, Inversion
from auditor.evaluator import Judge, train_judge
from auditor.evidence import ARMS, Arm, Exhibit, read_exhibit
from auditor.grids import row_of, save_grid
from auditor.scores import COLUMNS, UTILITY, score
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from fedinverse.errors import StageError
from fedinverse.private import part_of
from fedinverse.run import WORLDS, Run, World
from fedinverse.storage import atomic_write, content_sha256, read_json, read_metadata, write_json
from pipeline.console import console, percent, table
from pipeline.invert import inversions_of

GRID_IMAGES = 8


def audit(run: Run) -> pd.DataFrame:
    """Score every finished inversion; write the tables, grids and summary; return the scores.

    Raises:
        StageError: nothing was inverted yet.
    """
    found = inversions_of(run)
    if not found:
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    settings = run.section("audit", Audit)
    stamp = content_sha256([settings.model_dump(mode="json"), sorted(str(item.path) for item in found.values())])
    done = run.audit / "summary.json"
    if done.exists() and read_json(done)["inputs"] == stamp:
        console.print("Auditing: the scores are up to date")
        return pd.read_parquet(run.audit / "scores.parquet")
    console.print("[b]Auditing[/b]: training the evaluator on images that no client holds")
    judge = train_judge(run, settings.evaluator, run.audit)
    console.print(f"  evaluator reads {percent(judge.ceiling)} of real reserve images")
    exhibits = exhibits_of(run, found)
    scores = pd.concat([score(exhibits, judge, run.seed), _utility(run)], ignore_index=True)[COLUMNS]
    _draw(run, exhibits, judge)
    atomic_write(run.audit / "scores.parquet", scores.to_parquet(index=False))
    atomic_write(run.audit / "scores.csv", scores.to_csv(index=False))
    write_json(done, {"inputs": stamp, "ceiling": judge.ceiling})
    return scores


def exhibits_of(run: Run, found: dict[tuple[str, Path], Inversion]) -> list[Exhibit]:
    """Return every arm of every attack: captures (A) with their prior-only samples (B0), and the control targets."""
    controls: dict[Path, tuple[Arm, World]] = {
        run.checkpoint("with_victim", 0): ("B1", "with_victim"),
        run.checkpoint("without_victim", int(run.table["federation"]["rounds"])): ("B2", "without_victim"),
    }
    exhibits = []
    for (label, weights), inversion in found.items():
        number = int(read_metadata(weights)["model-round"])
        arm, world = controls.get(weights, ("A", "with_victim"))
        exhibits.append(read_exhibit(inversion.path / RECONSTRUCTIONS, arm, world, number, label))
        if arm == "A":
            exhibits.append(read_exhibit(inversion.path / PRIOR_ONLY, "B0", "with_victim", number, label))
    return exhibits


def _utility(run: Run) -> pd.DataFrame:
    """Return the global models' accuracy per class and round, as the server measured it on the reserve."""
    reserve = run.split[run.split["part"] == "reserve"].groupby("label").size()
    rows = [
        {"seed": run.seed, "world": world, "round": line["round"], "arm": "", "attack": "", "label": label,
         "metric": UTILITY, "value": value, "count": int(reserve[label])}
        for world in WORLDS
        for line in run.recorded_rounds(world)
        for label, value in enumerate(line["class-accuracy"])
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _draw(run: Run, exhibits: list[Exhibit], judge: Judge) -> None:
    victim = part_of(run, "train", victim_only=True)
    for shown in exhibits:
        labels = [label for label in shown.labels.unique().tolist() if label in run.population.victim_classes]
        rows = [row_of(shown, label, victim, judge, GRID_IMAGES) for label in labels]
        if rows:
            save_grid(grid_path(run, shown), rows)


def grid_path(run: Run, shown: Exhibit) -> Path:
    """Return where the grid of an exhibit lies."""
    return run.audit / "grids" / f"{shown.attack}-{shown.arm}-round-{shown.round:04d}.png"


def summary_of(run: Run, scores: pd.DataFrame) -> list[RoundSummary]:
    """Return the scores in brief: one line per attack and round."""
    return summarise(scores, run.population.victim_classes, run.section("audit", Audit).gate)


def show(run: Run, scores: pd.DataFrame) -> None:
    """Print leakage per round beside its controls."""
    lines = summary_of(run, scores)
    for attack in dict.fromkeys(line.attack for line in lines):
        rows = [
            [
                f"round {line.round}",
                *map(percent, (line.known, line.recognised, line.prior_only, line.untrained, line.no_victim)),
                "" if line.learned else "not learned",
            ]
            for line in lines
            if line.attack == attack
        ]
        header = ["", "model on victim", "attack", "prior only", "untrained", "no victim", ""]
        table(f"Attack '{attack}': share of reconstructions the evaluator reads as the victim's class", header, rows)
    told = "; ".join(f"{arm}: {ARMS[arm]}" for arm in ("A", "B0", "B1", "B2"))
    console.print(f"[dim]{told}[/dim]", soft_wrap=True)
