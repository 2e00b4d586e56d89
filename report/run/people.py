"""What people said of the reconstructions, where some were asked: a sentence, and tables."""

from dataclasses import dataclass

from auditor.people.reading import PeopleReport
from report.judge.tables import sentence_of, tables_of
from report.table import Table


@dataclass(frozen=True)
class PeopleFigures:
    """What the page shows of people who judged.

    Attributes:
        asked: what they were shown.
        sentence: what a reader takes away.
        tables: the most telling first; none where they were shown other images than the page is about.
    """

    asked: str
    sentence: str
    tables: list[Table]


def people_figures(report: PeopleReport, inversion: str) -> PeopleFigures:
    """Return what ``report`` says on a page about the reconstructions in the directory ``inversion``."""
    asked = f"Attack “{report.attack}”, round {report.round}, blind, beside controls and real images."
    if report.inversion != inversion:
        gone = "They were shown other images than this page is about: the attack was run again since. Ask them anew."
        return PeopleFigures(asked, gone, [])
    return PeopleFigures(asked, sentence_of(report.reading), tables_of(report.reading, report.notes))
