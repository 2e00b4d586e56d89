"""Stage 4: the auditor judges what the attacker made, beside its controls, and gives a verdict."""

from dataclasses import asdict, dataclass

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
from auditor.verdict import VERSION, Omission, leakage_table
from fedinverse.errors import StageError
from fedinverse.records import AuditSummary, write_record
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import atomic_write, content_sha256, file_sha256, write_json
from fedinverse.switches import exact_fp32
from pipeline.stages.inversions import Inversions, read_inversions
from report.console import console, working
from report.text import percent


@dataclass(frozen=True)
class AuditInputs:
    """What an audit follows from beside the images; read from the run before any work.

    Attributes:
        settings: of the audit.
        inversions: every finished one, and the arms that the run cannot have.
        marks: what must be shown wherever the verdict is.
        known: the model's accuracy on the victim's reserve images, by round.
    """

    settings: Audit
    inversions: Inversions
    marks: tuple[str, ...]
    known: dict[int, float]

    @property
    def stamp(self) -> str:
        """A hash of all of it and of the instruments' versions: with the same hash, an audit is up to date."""
        versions = [evaluator.VERSION, open_set.VERSION, embedding.VERSION, scores.VERSION, VERSION]
        judged = [[each.attack, asdict(each.target), each.inversion.path.name] for each in self.inversions.finished]
        left_out = [asdict(each) for each in self.inversions.left_out]
        settings, metrics = self.settings.model_dump(mode="json"), sorted(METRICS.registered())
        return content_sha256([settings, [*versions, metrics], judged, left_out, *self.marks])


def inputs_of(run: Run) -> AuditInputs:
    """Read what an audit of ``run`` follows from.

    Raises:
        StageError: nothing was inverted yet.
    """
    inversions = read_inversions(run)
    if not inversions.captured:
        raise StageError(f"{run.path} holds no finished inversion; run the stage 'invert' first")
    known = run.known_at(each.target.round for each in inversions.captured)
    settings = run.section("audit", Audit)
    return AuditInputs(settings, inversions, (*marks_of_run(run), *inversions.marks), known)


def audit(run: Run, ahead: Ahead | None = None) -> None:
    """Score every finished inversion; write scores, grids and verdict, unless they are up to date.

    ``ahead`` has been training the evaluators; where it did not learn from the samples at hand, another one helps.

    Raises:
        StageError: nothing was inverted yet.
    """
    files, inputs = run.files.auditor, inputs_of(run)
    settings, products = inputs.settings, (files.scores, files.leakage, run.files.verdict)
    if AuditSummary.stands(files.summary, inputs.stamp, products):
        console.print("Auditing: the scores are up to date")
        return
    for pool in run.pools.values():
        pool.verify()
    console.print("[b]Auditing[/b]: training the evaluators on images that no client holds")
    with threads(THREADS), exact_fp32(settings.device), working("auditing"):
        bench = open_bench(run, settings, inputs.inversions.samples, ahead)
        console.print(
            f"  E1 reads {percent(bench.ceiling)} of real reserve images; the two that may answer 'none of "
            f"these' agree on {percent(bench.open_ceiling)} of them"
        )
        exhibits = exhibits_of(inputs.inversions.finished, bench, run.network_of, run.victim_classes)
        caption = OVERLAP_CAPTION if overlaps(run) else ""
        drawn = with_grids(exhibits, bench, files, run.victim_classes, caption)
        scored = score(drawn, bench, run.seed, settings.metrics)
    verdict = judge(
        scored.table[scored.table["label"].isin([*run.victim_classes, WHOLE_SET])],
        settings.primary,
        inputs.known,
        classes=len(run.class_names),
        costs=inputs.inversions.costs,
        omitted=(*(Omission.of_arm(each.arm, each.reason) for each in inputs.inversions.left_out), *scored.omitted),
        marks=inputs.marks,
    )
    for path, frame in ((files.scores, scored.table), (files.leakage, leakage_table(verdict))):
        marked = frame.assign(overlap=overlaps(run))
        atomic_write(path, marked.to_parquet(index=False))
        atomic_write(path.with_suffix(".csv"), marked.to_csv(index=False))
    write_json(run.files.verdict, verdict.model_dump(mode="json"))
    written = {path.name: file_sha256(path) for path in products}
    write_record(files.summary, AuditSummary(inputs.stamp, bench.ceiling, bench.open_ceiling, written))
