"""Stage 4: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from auditor import scores
from auditor.bench import open_bench
from auditor.controls import exhibits_of
from auditor.evaluators import embedding, evaluator, open_set
from auditor.evaluators.ahead import Ahead
from auditor.evaluators.evaluator import THREADS
from auditor.grids import with_grids
from auditor.judgement import judge
from auditor.marks import OVERLAP_CAPTION, marks_of_run, overlaps
from auditor.metrics.names import METRICS, WHOLE_SET
from auditor.scores import score
from auditor.settings import Audit
from auditor.table import read_scores
from auditor.targets import LeftOut
from auditor.verdict import VERSION, AttackCost, Omission, leakage_table
from fedinverse.errors import StageError
from fedinverse.records import AuditSummary, write_record
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import atomic_write, content_sha256, file_sha256, write_json
from pipeline.stages.inversions import Finished, read_inversions
from report.console import console, working
from report.text import percent


@dataclass(frozen=True)
class AuditInputs:
    """What an audit follows from beside the images; read from the run before any work.

    Attributes:
        settings: of the audit.
        inversions: every finished one.
        left_out: the arms that the run cannot have.
        marks: what must be shown wherever the verdict is.
        known: the model's accuracy on the victim's reserve images, by round.
        costs: what each attack cost at the primary round.
    """

    settings: Audit
    inversions: list[Finished]
    left_out: tuple[LeftOut, ...]
    marks: tuple[str, ...]
    known: dict[int, float]
    costs: dict[str, AttackCost]

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
    known = run.known_at(each.target.round for each in inversions.finished if each.target.arm == "A")
    costs = costs_of(inversions.finished, settings.primary.round)
    marks = (*marks_of_run(run), *marks_of_inversions(inversions.finished))
    return AuditInputs(settings, inversions.finished, inversions.left_out, marks, known, costs)


def marks_of_inversions(inversions: Sequence[Finished]) -> tuple[str, ...]:
    """Return what the attacks on captured models left out or did otherwise than they were asked to, with the rounds."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for each in inversions:
        if each.target.arm == "A":
            for note in each.inversion.about.notes:
                rounds.setdefault((each.attack, note), []).append(each.target.round)
    return tuple(
        f"Attack '{attack}' on the model of round {', '.join(map(str, numbers))}: {note}."
        for (attack, note), numbers in rounds.items()
    )


def audit(run: Run, ahead: Ahead | None = None) -> pd.DataFrame:
    """Score every finished inversion; write tables, grids and verdict; return the scores.

    ``ahead`` has been training the evaluators; where it did not learn from the samples at hand, another one helps.

    Raises:
        StageError: nothing was inverted yet.
    """
    files, inputs = run.files.auditor, inputs_of(run)
    settings, products = inputs.settings, (files.scores, files.leakage, run.files.verdict)
    if AuditSummary.stands(files.summary, inputs.stamp, products):
        console.print("Auditing: the scores are up to date")
        return read_scores(files.scores)
    for pool in run.pools.values():
        pool.verify()
    console.print("[b]Auditing[/b]: training the evaluators on images that no client holds")
    samples = samples_of(inputs.inversions)
    helper = nullcontext() if ahead and ahead.trains_with(samples) else Ahead(run, settings, samples)
    with threads(THREADS), working("auditing"), helper:
        bench = open_bench(run, settings, samples)
        console.print(
            f"  E1 reads {percent(bench.ceiling)} of real reserve images; the two that may answer 'none of "
            f"these' agree on {percent(bench.open_ceiling)} of them"
        )
        exhibits = exhibits_of(inputs.inversions, bench, run.network_of, run.victim_classes)
        caption = OVERLAP_CAPTION if overlaps(run) else ""
        drawn = with_grids(exhibits, bench, files, run.victim_classes, caption)
        scored = score(drawn, bench, run.seed, settings.metrics)
    verdict = judge(
        scored.table[scored.table["label"].isin([*run.victim_classes, WHOLE_SET])],
        settings.primary,
        inputs.known,
        classes=len(run.class_names),
        costs=inputs.costs,
        omitted=(*(Omission.of_arm(each.arm, each.reason) for each in inputs.left_out), *scored.omitted),
        marks=inputs.marks,
    )
    for path, frame in ((files.scores, scored.table), (files.leakage, leakage_table(verdict))):
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    written = {path.name: file_sha256(path) for path in products}
    write_record(files.summary, AuditSummary(inputs.stamp, bench.ceiling, bench.open_ceiling, written))
    return scored.table


def samples_of(inversions: Sequence[Finished]) -> list[Path]:
    """Return the files of unoptimised samples of the attacks' priors.

    Of a prior that depends on its target, those of the world without the victim, or of the untrained model where there
    is none.
    """
    source = "B2" if any(each.target.arm == "B2" for each in inversions) else "B1"
    of_source = [each for each in inversions if each.target.arm == source]
    return sorted({each.directory.parent / each.inversion.about.samples for each in of_source})


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
