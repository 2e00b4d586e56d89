"""What the planted canaries show of epsilon, beside what is accounted; after the federation, whatever else is asked."""

from auditor.canaries import CanaryReport, measure, read_canaries
from fedinverse.errors import IntegrityError
from fedinverse.layout import WITH_VICTIM
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.storage import write_json
from report.console import echo
from report.run.canaries import alarms, sentence_of


def canaries(run: Run) -> CanaryReport:
    """Measure, unless that is done for this model; write ``audit/canaries.json``; say what it shows.

    Raises:
        StageError: see ``auditor.canaries``.
    """
    path, report = run.files.auditor.canaries, None
    if path.exists():
        try:
            report = read_canaries(path)
        except IntegrityError:
            report = None  # it is made again
    if report is None or report.sha256 != run.recorded_rounds(WITH_VICTIM)[-1].sha256:
        with threads(1):
            report = measure(run)
        write_json(path, report.model_dump(mode="json"))
    echo(f"Canaries: {sentence_of(report)}")
    for alarm in alarms(report):
        echo(f"  alarm: {alarm}", "bold red")
    return report
