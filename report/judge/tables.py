"""What people's answers say: a sentence, and tables of text."""

from collections.abc import Sequence

from auditor.omitted import Omitted
from auditor.people.reading import Agreement, PeopleReport, Reading
from report.table import Panel, Table
from report.text import NONE, counted, interval, points, share

MEANING = {
    "reconstruction": "what the attack made",
    "true-positive": "real, of the class: 'yes' is right",
    "wrong-class": "real, of another class: 'no' is right",
    "control-world": "the attack without the victim",
    "prior-only": "the prior's samples",
}
READINGS = {"closed": "E1, which must name a class", "open": "both that may say 'none of these'"}


def tables_of(reading: Reading, lacking: Sequence[str]) -> list[Table]:
    """Return all tables, the most telling first; ``lacking``: what the page lacks, and why."""
    return [_kinds(reading), _figures(reading), _judges(reading, lacking)]


def _kinds(reading: Reading) -> Table:
    header = ["", "what it is", "items", "yes [95 %]", "no [95 %]", "cannot tell"]
    rows = [
        [
            each.kind,
            MEANING[each.kind],
            str(each.yes.items),
            interval(each.yes),
            interval(each.no),
            share(each.unsure.value),
        ]
        for each in reading.kinds
    ]
    notes = ["each item counts once, with the share of its judges; the interval is Wilson's over items"]
    return Table("What people say", header, rows, notes=notes)


def _figures(reading: Reading) -> Table:
    rows = [
        ["accuracy of people", interval(reading.accuracy), "true positives and wrong classes, weighing the same"],
        [
            "lead over the control world",
            points(reading.lead),
            "'yes' to reconstructions minus 'yes' without the victim",
        ],
        ["lead over the prior", points(reading.lead_of_prior), "'yes' to reconstructions minus 'yes' to its samples"],
    ]
    rows += [
        [f"false positives, {name}", interval(figure), f"{READINGS[name]}: sees the class where most people say no"]
        for name, figure in reading.false_positives.items()
    ]
    rows += [
        [f"missed, {name}", interval(figure), f"{READINGS[name]}: does not see it where most people say yes"]
        for name, figure in reading.missed.items()
    ]
    rows.append(["agreement of judges", _agreement(reading.agreement), "1: always; 0: as often as chance"])
    figures: list[object] = [reading.accuracy, reading.lead, reading.lead_of_prior, *reading.false_positives.values()]
    figures += [*reading.missed.values(), reading.agreement]
    notes = list(dict.fromkeys(each.reason for each in figures if isinstance(each, Omitted)))
    return Table("People, and the evaluators against them", ["", "[95 %]", ""], rows, notes=notes)


def _judges(reading: Reading, lacking: Sequence[str]) -> Table:
    rows = [
        [name, f"{count} of {reading.items}", interval(reading.by_judge[name])]
        for name, count in reading.judges.items()
    ]
    return Table("Judges", ["", "answered", "accuracy [95 %]"], rows, notes=lacking)


def _agreement(figure: Agreement | Omitted) -> str:
    if isinstance(figure, Omitted):
        return NONE
    return f"{figure.measure} {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def sentence_of(reading: Reading) -> str:
    """Return the one sentence that a reader takes away."""
    who = counted(len(reading.judges), "judge")
    if isinstance(reading.accuracy, Omitted):
        return f"{who}: nothing can be said of them: {reading.accuracy.reason}."
    sees = f"{who}, right on {interval(reading.accuracy)} of the real images"
    if isinstance(reading.lead, Omitted):
        return f"{sees}; {reading.lead.reason}."
    lead = f"{points(reading.lead)} points more often in reconstructions than in those made without the victim"
    state = "" if reading.lead.low > 0 else "; that is not shown to be more than nothing"
    return f"{sees}, see the class {lead}{state}."


def people_figures(report: PeopleReport, inversion: str) -> Panel:
    """Return what ``report`` says on a page about the reconstructions in the directory ``inversion``."""
    asked = f"Attack “{report.attack}”, round {report.round}, blind, beside controls and real images."
    if report.inversion != inversion:
        gone = "They were shown other images than this page is about: the attack was run again since. Ask them anew."
        return Panel(gone, [], remark=asked)
    return Panel(sentence_of(report.reading), tables_of(report.reading, report.notes), remark=asked)
