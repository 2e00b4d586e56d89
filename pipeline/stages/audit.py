"""Stage 4: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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
from auditor.evaluators.material import Material, material_of
from auditor.evaluators.open_set import OpenEvaluators, none_images, train_open_evaluators
from auditor.evidence import Exhibit, read_exhibit
from auditor.grids import row_of, save_grid
from auditor.judgement import AttackCost, judge
from auditor.marks import OVERLAP_CAPTION, marks_of_run, overlaps
from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.scores import score
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from auditor.targets import LeftOut, Targets
from auditor.verdict import VERSION, Omission, leakage_table, read_verdict
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


@dataclass(frozen=True)
class AuditInputs:
    """What an audit follows from beside the images; read from the run before any work.

    Attributes:
        settings: of the audit.
        inversions: every finished one.
        left_out: the arms that the run cannot have.
        marks: what must be shown wherever the verdict is.
        known: the model's accuracy on the victim's reserve images, by round.
    """

    settings: Audit
    inversions: list[Finished]
    left_out: tuple[LeftOut, ...]
    marks: tuple[str, ...]
    known: dict[int, float]

    @property
    def stamp(self) -> str:
        """A hash of all of it and of the instruments' versions: with the same hash, an audit is up to date."""
        versions = [evaluator.VERSION, open_set.VERSION, embedding.VERSION, scores.VERSION, VERSION]
        judged = [[each.attack, asdict(each.target), each.inversion.path.name] for each in self.inversions]
        left_out = [asdict(each) for each in self.left_out]
        settings, metrics = self.settings.model_dump(mode="json"), sorted(METRICS.registered())
        return content_sha256([settings, [*versions, metrics], judged, left_out, *self.marks])


def inputs_of(run: Run) -> AuditInputs:
    """Read what an audit of ``run`` follows from.

    Raises:
        StageError: nothing was inverted yet.
    """
    inversions = finished(run)
    if not any(each.target.arm == "A" for each in inversions):
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    left_out = Targets.read(run).left_out
    return AuditInputs(run.section("audit", Audit), inversions, left_out, marks_of_run(run), known_by_round(run))


def audit(run: Run) -> pd.DataFrame:
    """Score every finished inversion; write tables, grids and verdict; return the scores.

    Raises:
        StageError: nothing was inverted yet.
    """
    inputs = inputs_of(run)
    settings = inputs.settings
    if _is_current(run, inputs.stamp):
        console.print("Auditing: the scores are up to date")
        gather(run)
        return pd.read_parquet(run.files.auditor.scores)
    for pool in run.pools.values():
        pool.verify()
    console.print("[b]Auditing[/b]: training the evaluators on images that no client holds")
    with threads(THREADS), working("auditing"):
        bench = bench_of(run, inputs)
        console.print(
            f"  E1 reads {percent(bench.judge.ceiling)} of real reserve images; the two that may answer 'none of "
            f"these' agree on {percent(bench.open.ceiling)} of them"
        )
        exhibits = drawn(run, exhibits_of(run, inputs.inversions, bench), bench)
        scored = score(exhibits, bench, run.seed, settings.metrics)
    verdict = judge(
        scored.table[scored.table["label"].isin([*run.victim_classes, WHOLE_SET])],
        settings.primary,
        inputs.known,
        classes=len(run.class_names),
        costs=costs_of(inputs.inversions, settings.primary.round),
        omitted=(*(Omission.of_arm(each.arm, each.reason) for each in inputs.left_out), *scored.omitted),
        marks=inputs.marks,
    )
    tables = {run.files.auditor.scores: scored.table, run.files.auditor.leakage: leakage_table(verdict)}
    for path, frame in tables.items():
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    products = {path.name: file_sha256(path) for path in _products(run)}
    ceilings = {"ceiling": bench.judge.ceiling, "open-ceiling": bench.open.ceiling}
    write_json(run.files.auditor.summary, {"inputs": inputs.stamp, **ceilings, "products": products})
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


def bench_of(run: Run, inputs: AuditInputs) -> Bench:
    """Return the evaluators, trained or read from the cache, and every real image in their features."""
    material = material_of(run, inputs.settings.evaluator)
    first, both = evaluators_of(run, material, inputs.inversions, inputs.settings)
    return open_bench(run, material, first, both, inputs.settings.device)


def evaluators_of(
    run: Run, material: Material, inversions: list[Finished], settings: Audit
) -> tuple[Judge, OpenEvaluators]:
    """Return E1, and both evaluators that may say "none of these", trained or read from the cache.

    What is "none of these" is learned from the public images and from samples of the attacks' priors; of a prior that
    depends on its target, from those of the world without the victim, or of the untrained model where there is none.
    """
    store, device = run.files.auditor.root, settings.device
    source = "B2" if any(each.target.arm == "B2" for each in inversions) else "B1"
    of_source = [each.inversion for each in inversions if each.target.arm == source]
    samples = sorted({inversion.path.parent / inversion.about.samples for inversion in of_source})
    none = none_images(run, samples)
    with ahead(run, settings, samples):
        first = train_judge(material, settings.evaluator, store, device)
        return first, train_open_evaluators(material, settings.evaluator, none, store, device)


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
