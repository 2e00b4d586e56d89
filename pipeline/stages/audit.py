"""Stage 4: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from auditor import scores
from auditor.arms import CONTROLS
from auditor.bench import Bench, open_bench
from auditor.controls import exhibits_of
from auditor.evaluators import embedding, evaluator, open_set
from auditor.evaluators.evaluator import THREADS
from auditor.evidence import Exhibit
from auditor.grids import draw_grid
from auditor.judgement import AttackCost, judge
from auditor.marks import OVERLAP_CAPTION, marks_of_run, overlaps
from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.scores import score
from auditor.settings import Audit
from auditor.summary import RoundSummary, summarise
from auditor.targets import LeftOut
from auditor.verdict import VERSION, Omission, leakage_table, read_verdict
from fedinverse.errors import StageError
from fedinverse.records import AuditSummary, write_record
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import atomic_write, content_sha256, file_sha256, write_json
from pipeline.stages.answers import gather, show_answers
from pipeline.stages.inversions import Finished, read_inversions
from report.console import console, table, working
from report.text import percent, whole


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
    inversions = read_inversions(run)
    if not any(each.target.arm == "A" for each in inversions.finished):
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    settings = run.section("audit", Audit)
    return AuditInputs(settings, inversions.finished, inversions.left_out, marks_of_run(run), run.victim_accuracy)


def audit(run: Run) -> pd.DataFrame:
    """Score every finished inversion; write tables, grids and verdict; return the scores.

    Raises:
        StageError: nothing was inverted yet.
    """
    files, inputs = run.files.auditor, inputs_of(run)
    settings, products = inputs.settings, (files.scores, files.leakage, run.files.verdict)
    if AuditSummary.stands(files.summary, inputs.stamp, products):
        console.print("Auditing: the scores are up to date")
        gather(run)
        return pd.read_parquet(files.scores)
    for pool in run.pools.values():
        pool.verify()
    console.print("[b]Auditing[/b]: training the evaluators on images that no client holds")
    with threads(THREADS), working("auditing"):
        bench = open_bench(run, settings, samples_of(inputs.inversions))
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
    for path, frame in ((files.scores, scored.table), (files.leakage, leakage_table(verdict))):
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    written = {path.name: file_sha256(path) for path in products}
    write_record(files.summary, AuditSummary(inputs.stamp, bench.judge.ceiling, bench.open.ceiling, written))
    gather(run)
    return scored.table


def samples_of(inversions: Sequence[Finished]) -> list[Path]:
    """Return the files of unoptimised samples of the attacks' priors.

    Of a prior that depends on its target, those of the world without the victim, or of the untrained model where there
    is none.
    """
    source = "B2" if any(each.target.arm == "B2" for each in inversions) else "B1"
    of_source = [each for each in inversions if each.target.arm == source]
    return sorted({each.directory.parent / each.inversion.about.samples for each in of_source})


def drawn(run: Run, exhibits: Iterable[Exhibit], bench: Bench) -> Iterator[Exhibit]:
    """Yield ``exhibits`` as they are, after drawing a grid of each: its images beside the nearest of the victim's."""
    caption = OVERLAP_CAPTION if overlaps(run) else ""
    for exhibit in exhibits:
        if exhibit.arm != "CEIL":
            path = run.files.auditor.grid(exhibit.attack, exhibit.arm, exhibit.round, exhibit.world)
            draw_grid(path, exhibit, bench, run.victim_classes, caption)
        yield exhibit


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


def summary_of(run: Run, scores: pd.DataFrame) -> list[RoundSummary]:
    """Return the scores in brief: one line per attack and round."""
    primary = run.section("audit", Audit).primary
    return summarise(scores, run.victim_accuracy, run.victim_classes, primary.gate, primary.metric)


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
