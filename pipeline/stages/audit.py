"""Stage 4: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from attacker.inversion import PRIOR_ONLY, RECONSTRUCTIONS
from auditor import scores
from auditor.arms import CONTROLS
from auditor.bench import Bench, open_bench, reserve_exhibit
from auditor.controls import KnownImages, nearest_known, permuted, surest_known
from auditor.evaluators import embedding, evaluator, open_set
from auditor.evaluators.ahead import ahead
from auditor.evaluators.evaluator import THREADS, Judge, train_judge
from auditor.evaluators.open_set import OpenEvaluators, none_images, train_open_evaluators
from auditor.evidence import Exhibit, read_exhibit
from auditor.grids import row_of, save_grid
from auditor.judgement import AttackCost, judge
from auditor.leakage_table import leakage_table
from auditor.marks import OVERLAP_CAPTION, marks_of_run, overlaps
from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.scores import Scored, score
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from auditor.targets import Targets
from auditor.verdict import EVERY_METRIC, VERSION, Omission, Verdict, read_verdict
from fedinverse.errors import IntegrityError, StageError
from fedinverse.models import Classifier, build, for_inference
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import (
    atomic_write,
    content_sha256,
    file_sha256,
    into_module,
    load_weights,
    read_object,
    write_json,
)
from pipeline.stages.answers import gather, show_answers
from pipeline.stages.inversions import Finished, finished
from report.console import console, table, working
from report.text import percent, whole

GRID_IMAGES = 8
GRID_CLASSES = 200  # rows of a grid: a sheet of more is looked at by nobody


def audit(run: Run) -> pd.DataFrame:
    """Score every finished inversion; write tables, grids and verdict; return the scores.

    Raises:
        StageError: nothing was inverted yet.
    """
    inversions = finished(run)
    if not any(each.target.arm == "A" for each in inversions):
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    settings, stamp = run.section("audit", Audit), stamp_of(run, inversions)
    done = run.files.auditor.summary
    if _is_current(run, stamp):
        console.print("Auditing: the scores are up to date")
        gather(run)
        return pd.read_parquet(run.files.auditor.scores)
    for pool in run.pools.values():
        pool.verify()
    console.print("[b]Auditing[/b]: training the evaluators on images that no client holds")
    with threads(THREADS), working("auditing"):
        bench = bench_of(run, inversions, settings)
        console.print(
            f"  E1 reads {percent(bench.judge.ceiling)} of real reserve images; the two that may answer 'none of "
            f"these' agree on {percent(bench.open.ceiling)} of them"
        )
        scored = score(drawn(run, exhibits_of(run, inversions, bench), bench), bench, run.seed, settings.metrics)
    verdict = verdict_of(run, scored, inversions, settings)
    tables = {run.files.auditor.scores: scored.table, run.files.auditor.leakage: leakage_table(verdict)}
    for path, frame in tables.items():
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    products = {path.name: file_sha256(path) for path in _products(run)}
    ceilings = {"ceiling": bench.judge.ceiling, "open-ceiling": bench.open.ceiling}
    write_json(done, {"inputs": stamp, **ceilings, "products": products})
    gather(run)
    return scored.table


def _products(run: Run) -> tuple[Path, ...]:
    return run.files.auditor.scores, run.files.auditor.leakage, run.files.verdict


def _is_current(run: Run, stamp: str) -> bool:
    """Return whether the audit of these inputs was done and all it wrote is there as it was written."""
    done = run.files.auditor.summary
    if not done.exists():
        return False
    try:
        summary = read_object(done, "inputs", "products")
        written = {path.name: file_sha256(path) for path in _products(run) if path.is_file()}
    except IntegrityError:
        return False  # it is made again
    return bool(summary["inputs"] == stamp and summary["products"] == written)


def bench_of(run: Run, inversions: list[Finished], settings: Audit) -> Bench:
    """Return the evaluators, trained or read from the cache, and every real image in their features.

    What is "none of these" is learned from the public images and from samples of the attacks' priors; of a prior that
    depends on its target, from those of the world without the victim, or of the untrained model where there is none.
    """
    judge, both = evaluators_of(run, inversions, settings)
    return open_bench(run, judge, both, settings.device)


def evaluators_of(run: Run, inversions: list[Finished], settings: Audit) -> tuple[Judge, OpenEvaluators]:
    """Return E1, and both evaluators that may say "none of these"; see ``bench_of``."""
    store, device = run.files.auditor.root, settings.device
    source = "B2" if any(each.target.arm == "B2" for each in inversions) else "B1"
    samples = {
        each.inversion.path.parent / each.inversion.about.samples for each in inversions if each.target.arm == source
    }
    none = none_images(run, sorted(samples))
    with ahead(run, settings, sorted(samples)):
        judge = train_judge(run, settings.evaluator, store, device)
        return judge, train_open_evaluators(run, settings.evaluator, none, store, device)


def stamp_of(run: Run, inversions: list[Finished]) -> str:
    """Return a hash of everything that the scores and the verdict follow from; the same hash: they are up to date."""
    settings = run.section("audit", Audit).model_dump(mode="json")
    names = sorted(METRICS.registered())
    versions = [evaluator.VERSION, open_set.VERSION, embedding.VERSION, scores.VERSION, VERSION, names]
    judged = [[each.attack, asdict(each.target), each.inversion.path.name] for each in inversions]
    left_out = [asdict(each) for each in Targets.read(run).left_out]
    return content_sha256([settings, versions, judged, left_out, *marks_of_run(run)])


def exhibits_of(run: Run, inversions: list[Finished], bench: Bench) -> Iterator[Exhibit]:
    """Yield every arm of every attack, one at a time: the inversions, what is made of them, and real images.

    Of an inversion of a captured model (A) come the prior's samples (B0), wrong labels (B5) and the known images that
    the model is surest of (B4); of one without the victim (B2), the known images that *it* is surest of (B4W).
    """
    surest: dict[str, KnownImages] = {}  # several attacks have the same targets
    for each in inversions:
        target = each.target
        where = target.world, target.round, each.attack
        exhibit = read_exhibit(each.inversion.path / RECONSTRUCTIONS, target.arm, *where)
        yield exhibit
        if target.arm == "A":
            yield read_exhibit(each.inversion.path / PRIOR_ONLY, "B0", *where)
            yield permuted(exhibit)
        chosen = {"A": "B4", "B2": "B4W"}.get(target.arm)
        if chosen is not None:
            if target.sha256 not in surest:
                network = _network(run, each.weights, bench.judge.device)
                surest = {target.sha256: surest_known(network, bench.known, exhibit.labels, bench.judge.device)}
            yield nearest_known(exhibit, surest[target.sha256], bench.known, chosen)
    yield reserve_exhibit(bench, run.victim_classes, max(each.target.round for each in inversions))


def _network(run: Run, weights: Path, device: str | torch.device) -> Classifier:
    network = build(run.model.name, len(run.class_names), run.model.width, seed=0)
    into_module(network, load_weights(weights)[0], str(weights))
    return for_inference(network, device)


def verdict_of(run: Run, scored: Scored, inversions: list[Finished], settings: Audit) -> Verdict:
    """Return the verdict over the scores of ``run``."""
    victims = run.victim_classes
    left_out = tuple(
        Omission(metric=EVERY_METRIC, reason=each.reason, arms=(each.arm,), figures=1)
        for each in Targets.read(run).left_out
    )
    return judge(
        scored.table[scored.table["label"].isin([*victims, WHOLE_SET])],
        settings.primary,
        known_by_round(run),
        classes=len(run.class_names),
        costs=costs_of(inversions, settings.primary.round),
        omitted=(*left_out, *scored.omitted),
        marks=marks_of_run(run),
    )


def costs_of(inversions: list[Finished], primary_round: int) -> dict[str, AttackCost]:
    """Return what each attack cost at the primary round; -1: at the last round that it attacked.

    An attack that was not run at that round has no entry.
    """
    costs: dict[str, AttackCost] = {}
    last = {each.attack: each.target.round for each in inversions if each.target.arm == "A"}  # by round, ascending
    for each in inversions:
        if each.target.arm != "A" or each.target.round != (last[each.attack] if primary_round == -1 else primary_round):
            continue
        about = each.inversion.about
        seconds = about.cost.seconds + about.prior_seconds
        costs[each.attack] = AttackCost(seconds=seconds, target_queries=about.cost.target_queries)
    return costs


def drawn(run: Run, exhibits: Iterable[Exhibit], bench: Bench) -> Iterator[Exhibit]:
    """Yield ``exhibits`` as they are, after drawing a grid of each: its images beside the nearest of the victim's."""
    caption = OVERLAP_CAPTION if overlaps(run) else ""
    for exhibit in exhibits:
        labels = [label for label in run.victim_classes if (exhibit.labels == label).any()][:GRID_CLASSES]
        rows = [row_of(exhibit, label, bench.train, bench.train_seen, bench.judge, GRID_IMAGES) for label in labels]
        if rows and exhibit.arm != "CEIL":
            path = run.files.auditor.grid(exhibit.attack, exhibit.arm, exhibit.round, exhibit.world)
            save_grid(path, rows, caption=caption)
        yield exhibit


def known_by_round(run: Run) -> dict[int, float]:
    """Return the global model's accuracy on the victim's reserve images by round, in the world with the victim."""
    return {
        line.round: known for line in run.recorded_rounds("with_victim") if (known := line.victim_accuracy) is not None
    }


def summary_of(run: Run, scores: pd.DataFrame) -> list[RoundSummary]:
    """Return the scores in brief: one line per attack and round."""
    primary = run.section("audit", Audit).primary
    return summarise(scores, known_by_round(run), run.victim_classes, primary.gate, primary.metric)


def show(run: Run, scores: pd.DataFrame) -> None:
    """Print leakage per round beside its controls, and the verdict."""
    lines = summary_of(run, scores)
    arms = [arm for arm in CONTROLS if any(line.controls[arm] is not None for line in lines)]
    for attack in dict.fromkeys(line.attack for line in lines):
        rows = [
            [
                str(line.round),
                *map(whole, (line.known, line.recognised, *(line.controls[arm] for arm in arms))),
                "" if line.learned else "not yet",
            ]
            for line in lines
            if line.attack == attack
        ]
        header = ["round", "model", "attack", *arms, ""]
        table(f"Attack '{attack}': % of images read as the victim's class", header, rows)
    names = ", ".join(f"{arm} {CONTROLS[arm]}" for arm in arms)
    console.print(
        f"[dim]{run.section('audit', Audit).primary.metric}; model: its own accuracy on the victim's classes "
        f"(not yet: below the gate); controls: {names}[/dim]",
        soft_wrap=True,
    )
    verdict = read_verdict(run.files.verdict)
    console.print(f"[b]{verdict.sentence}[/b]", soft_wrap=True)
    for mark in verdict.marks:
        console.print(f"  - {mark}", soft_wrap=True, style="yellow")
    for reason in verdict.reasons:
        if reason not in verdict.marks:
            console.print(f"  - {reason}", soft_wrap=True)
    if verdict.settle:
        console.print("To settle it:")
    for way in verdict.settle:
        console.print(f"  - {way}", soft_wrap=True)
    show_answers(run)
