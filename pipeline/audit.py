"""Stage 3: the auditor judges what the attacker made, beside its controls."""

from pathlib import Path

import pandas as pd

from attacker.inversion import PRIOR_ONLY, RECONSTRUCTIONS, Inversion
from auditor.evaluator import Judge, train_judge
from auditor.evidence import ARMS, Exhibit, read_exhibit
from auditor.grids import row_of, save_grid
from auditor.scores import COLUMNS, UTILITY, mean_over_classes, score
from auditor.settings import Audit
from fedinverse.errors import StageError
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.storage import atomic_write, content_sha256, read_json, read_jsonl, read_metadata, write_json
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
    controls = {
        run.checkpoint("with_victim", 0): ("B1", "with_victim"),
        run.checkpoint("without_victim", int(run.table["federation"]["rounds"])): ("B2", "without_victim"),
    }
    exhibits = []
    for (label, weights), inversion in found.items():
        number = int(read_metadata(weights)["model-round"])
        arm, world = controls.get(weights, ("A", "with_victim"))
        exhibits.append(read_exhibit(inversion.path / RECONSTRUCTIONS, arm, world, number, label))  # type: ignore[arg-type]
        if arm == "A":
            exhibits.append(read_exhibit(inversion.path / PRIOR_ONLY, "B0", "with_victim", number, label))
    return exhibits


def _utility(run: Run) -> pd.DataFrame:
    """Return the global models' accuracy per class and round, as the server measured it on the reserve."""
    reserve = run.split[run.split["part"] == "reserve"].groupby("label").size()
    rows = [
        {"seed": run.seed, "world": world, "round": line["round"], "arm": "", "attack": "", "label": label,
         "metric": UTILITY, "value": value, "count": int(reserve[label])}
        for world in ("with_victim", "without_victim")
        for line in {line["round"]: line for line in read_jsonl(run.rounds(world))}.values()  # type: ignore[arg-type]
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


def show(run: Run, scores: pd.DataFrame) -> None:
    """Print leakage per round beside its controls."""
    means = mean_over_classes(victim_scores(run, scores))
    utility = victim_utility(run, scores)
    gate = run.section("audit", Audit).gate
    for attack in means.index.get_level_values("attack").unique():
        mine = means.loc[attack]
        b1, b2 = (_single(mine, arm) for arm in ("B1", "B2"))
        rows = []
        for number, line in mine.iterrows():
            if pd.notna(line.get("A")):
                known = utility[int(str(number))]
                rows.append([
                    f"round {number}", percent(known), percent(line["A"]), percent(line["B0"]), percent(b1), percent(b2),
                    "" if known >= gate else "not learned yet",
                ])  # fmt: skip
        header = ["", "model on victim", "attack", "prior only", "untrained", "no victim", ""]
        table(f"Attack '{attack}': share of reconstructions the evaluator reads as the victim's class", header, rows)
    console.print(
        "[dim]" + "; ".join(f"{arm}: {ARMS[arm]}" for arm in ("A", "B0", "B1", "B2")) + "[/dim]", soft_wrap=True
    )


def victim_scores(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows about the victim's classes."""
    return scores[scores["label"].isin(run.population.victim_classes)]


def victim_utility(run: Run, scores: pd.DataFrame) -> dict[int, float]:
    """Return the global model's accuracy on the victim's classes by round, in the world with the victim."""
    chosen = victim_scores(run, scores)
    chosen = chosen[(chosen["metric"] == UTILITY) & (chosen["world"] == "with_victim")]
    return {int(str(number)): float(value) for number, value in chosen.groupby("round")["value"].mean().items()}


def _single(means: pd.DataFrame, arm: str) -> float | None:
    values = means[arm].dropna() if arm in means else pd.Series(dtype=float)
    return float(values.iloc[0]) if len(values) else None
