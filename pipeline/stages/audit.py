"""Stage 3: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from pathlib import Path

import pandas as pd
from torch import Tensor

from attacker.inversion import PRIOR_ONLY, RECONSTRUCTIONS, Inversion
from auditor.arms import CONTROLS, Key
from auditor.bench import Bench, open_bench, reserve_exhibit
from auditor.controls import certainty, nearest_known, permuted
from auditor.evaluators.evaluator import train_judge
from auditor.evidence import Exhibit, read_exhibit
from auditor.grids import row_of, save_grid
from auditor.leakage_table import leakage_table
from auditor.marks import OVERLAP_CAPTION, marks_of_run, overlaps
from auditor.metrics.names import METRICS
from auditor.scores import Scored, score
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from auditor.verdict import AttackCost, Verdict, judge
from fedinverse.errors import StageError
from fedinverse.layout import World
from fedinverse.models import Classifier, build, for_inference
from fedinverse.run import Run
from fedinverse.storage import (
    atomic_write,
    content_sha256,
    into_module,
    load_weights,
    read_json,
    read_metadata,
    write_json,
)
from pipeline.stages.invert import inversions_of
from pipeline.stages.own_shard import own_shard_model
from report.console import console, percent, table

GRID_IMAGES = 8


def audit(run: Run) -> pd.DataFrame:
    """Score every finished inversion; write tables, grids and verdict; return the scores.

    Raises:
        StageError: nothing was inverted yet.
    """
    found = inversions_of(run)
    if not found:
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    settings = run.section("audit", Audit)
    judged = sorted(str(item.path.relative_to(run.path)) for item in found.values())
    stamp = content_sha256([settings.model_dump(mode="json"), judged, sorted(METRICS), *marks_of_run(run)])
    done = run.files.auditor.summary
    if done.exists() and read_json(done)["inputs"] == stamp:
        console.print("Auditing: the scores are up to date")
        return pd.read_parquet(run.files.auditor.scores)
    console.print("[b]Auditing[/b]: training the evaluator on images that no client holds")
    bench = open_bench(run, train_judge(run, settings.evaluator, run.files.auditor.root))
    console.print(f"  evaluator reads {percent(bench.judge.ceiling)} of real reserve images")
    exhibits = exhibits_of(run, found, bench.known)
    last = max(shown.round for shown in exhibits)
    scored = score([*exhibits, reserve_exhibit(bench, run.population.victim_classes, last)], bench, run.seed)
    verdict = _verdict(run, scored, found, settings)
    _draw(run, exhibits, bench)
    for path, frame in (
        (run.files.auditor.scores, scored.table),
        (run.files.auditor.leakage, leakage_table(verdict)),
    ):
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    write_json(done, {"inputs": stamp, "ceiling": bench.judge.ceiling})
    return scored.table


def exhibits_of(run: Run, found: dict[tuple[str, Path], Inversion], known: Tensor) -> list[Exhibit]:
    """Return every arm of every attack: captures (A) with the controls made of them, and the control targets.

    Args:
        run: the run.
        found: its finished inversions.
        known: the images the attacker holds, uint8 [M, C, H, W].
    """
    exhibits: list[Exhibit] = []
    sure: dict[Path, Tensor] = {}  # several attacks have the same targets
    for (label, weights), inversion in found.items():
        number = int(read_metadata(weights)["model-round"])
        arm, world = _arm(run, weights)
        exhibits.append(read_exhibit(inversion.path / RECONSTRUCTIONS, arm, world, number, label))
        if arm == "A":
            attack = exhibits[-1]
            if weights not in sure:
                sure[weights] = certainty(_network(run, weights), known)
            exhibits.append(read_exhibit(inversion.path / PRIOR_ONLY, "B0", world, number, label))
            exhibits += [permuted(attack), nearest_known(attack, sure[weights], known)]
    return exhibits


def _network(run: Run, weights: Path) -> Classifier:
    network = build(run.model.name, len(run.class_names), run.model.width, seed=0)
    into_module(network, load_weights(weights)[0], str(weights))
    return for_inference(network)


def _arm(run: Run, weights: Path) -> tuple[Key, World]:
    if weights == run.files.server.checkpoint("with_victim", 0):
        return "B1", "with_victim"
    if weights.is_relative_to(run.files.server.federation("without_victim")):
        return "B2", "without_victim"
    if weights == own_shard_model(run):
        return "B3", "with_victim"
    return "A", "with_victim"


def _verdict(run: Run, scored: Scored, found: dict[tuple[str, Path], Inversion], settings: Audit) -> Verdict:
    victims = run.population.victim_classes
    costs = {
        label: AttackCost(seconds=cost["seconds"] + about["prior-seconds"], target_queries=cost["target_queries"])
        for (label, weights), inversion in found.items()
        if _arm(run, weights)[0] == "A"
        for about in [inversion.about]
        for cost in [about["cost"]]
    }
    return judge(
        scored.table[scored.table["label"].isin(victims)],
        settings.primary,
        known_by_round(run),
        classes=len(run.class_names),
        seed=run.seed,
        costs=costs,
        omitted=scored.omitted,
        marks=marks_of_run(run),
    )


def _draw(run: Run, exhibits: list[Exhibit], bench: Bench) -> None:
    caption = OVERLAP_CAPTION if overlaps(run) else ""
    for shown in exhibits:
        labels = [label for label in run.population.victim_classes if (shown.labels == label).any()]
        rows = [row_of(shown, label, bench.train, bench.train_seen, bench.judge, GRID_IMAGES) for label in labels]
        if rows:
            save_grid(run.files.auditor.grid(shown.attack, shown.arm, shown.round), rows, caption=caption)


def known_by_round(run: Run) -> dict[int, float]:
    """Return the global model's accuracy on the victim's reserve images by round, in the world with the victim."""
    return {line["round"]: line["victim-accuracy"] for line in run.recorded_rounds("with_victim")}


def summary_of(run: Run, scores: pd.DataFrame) -> list[RoundSummary]:
    """Return the scores in brief: one line per attack and round."""
    gate = run.section("audit", Audit).primary.gate
    return summarise(scores, known_by_round(run), run.population.victim_classes, gate)


def show(run: Run, scores: pd.DataFrame) -> None:
    """Print leakage per round beside its controls, and the verdict."""
    lines = summary_of(run, scores)
    arms = [arm for arm in CONTROLS if any(line.controls[arm] is not None for line in lines)]
    for attack in dict.fromkeys(line.attack for line in lines):
        rows = [
            [
                str(line.round),
                *map(percent, (line.known, line.recognised, *(line.controls[arm] for arm in arms))),
                "" if line.learned else "not yet",
            ]
            for line in lines
            if line.attack == attack
        ]
        header = ["round", "model", "attack", *arms, ""]
        table(f"Attack '{attack}': share of reconstructions the evaluator reads as the victim's class", header, rows)
    names = ", ".join(f"{arm} {CONTROLS[arm]}" for arm in arms)
    console.print(
        f"[dim]model: its own accuracy on the victim's classes (not yet: below the gate); controls: {names}[/dim]",
        soft_wrap=True,
    )
    verdict = read_json(run.files.verdict)
    console.print(f"[b]{verdict['sentence']}[/b]", soft_wrap=True)
    for mark in marks_of_run(run):
        console.print(f"  - {mark}", soft_wrap=True, style="yellow")
    for reason in verdict["reasons"]:
        console.print(f"  - {reason}", soft_wrap=True)
