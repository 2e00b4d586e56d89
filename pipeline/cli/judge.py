"""``fedinverse judge``: a page on which people judge a run's images, and what their answers say."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = """
**Examples**  the page needs no network; give it to people, keep key.json

fedinverse judge runs/quickstart                          makes the page
fedinverse judge runs/quickstart --read answers-ada.json answers-bo.json
fedinverse judge runs/quickstart --with mymodels:same     a program judges
"""


def judge(
    directory: Annotated[Path, typer.Argument(help="an audited run, e.g. runs/quickstart", metavar="RUN")],
    answers: Annotated[
        list[Path] | None, typer.Argument(help="further files for --read", metavar="[ANSWERS]...")
    ] = None,
    read: Annotated[
        Path | None, typer.Option("--read", help="a judge's file of answers; more may follow it", metavar="ANSWERS")
    ] = None,
    with_: Annotated[
        str, typer.Option("--with", help="a function that judges, as package.module:function", metavar="PATH")
    ] = "",
    per_kind: Annotated[int, typer.Option("--per-kind", min=1, max=500, help="most images of each of five kinds")] = 20,
    seed: Annotated[int, typer.Option("--seed", min=0, help="another seed, another choice and order")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="directory of page and key (default: judge/ in the run)")
    ] = None,
) -> None:
    """Ask people whether images show the victim's classes: write a page for them, or read their answers."""
    from auditor.people.sheet import read_key
    from fedinverse.errors import ConfigError
    from fedinverse.layout import SheetFiles
    from fedinverse.run import Run
    from pipeline.cli.held import held
    from pipeline.people import answer_with, make_sheet, read_sheet
    from report.console import bullets, echo, say, show_table
    from report.judge.tables import sentence_of, tables_of
    from report.text import counted

    run = Run(directory.resolve())
    _ = run.table  # refuses what is no run directory
    files = SheetFiles(out.resolve()) if out else run.files.sheet
    given = [*([read] if read else []), *(answers or [])]
    if given and read is None:
        raise ConfigError(f"{given[0]}: files of answers follow --read: fedinverse judge {directory} --read {given[0]}")
    if given and with_:
        raise ConfigError("--with and --read exclude each other; --with reads what the program answers")
    if not given:
        with held(directory) as opened:
            key = make_sheet(opened, files, per_kind, seed)
        bullets(key.notes)
        if not with_:
            questions = counted(len(key.items), "question")
            say("Page", f"{files.page}: {questions}; give this file, not the directory, to people")
            reading_it = f"'fedinverse judge {directory} --read ANSWERS...' reads what they say"
            say("Key", f"{files.key}: keep it; with it {reading_it}")
            return
        given = [answer_with(with_, files)]
        say("Answers", str(given[0]))
    reading = read_sheet(files, given)
    echo(sentence_of(reading), "bold")
    for each in tables_of(reading, read_key(files.key).notes):
        show_table(each)
    say("Figures", str(files.reading))
    if out is None and run.files.report.exists():
        from pipeline.stages.report import report

        with held(directory) as opened:
            say("Report", f"{report(opened)}, section “What people see”")
