"""The options that start a run, here or deployed."""

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[str, typer.Argument(help="a TOML file, or the name of one in configs/", metavar="[CONFIG]")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override a value of the file; may be repeated"),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="directory of run directories (default: the file's 'out')")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="check everything, say what it will take in time and disk, write nothing")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="continue a run that was stopped or killed")]
ProfileOption = Annotated[bool, typer.Option("--profile", help="also write profile.json: where the time went")]
