"""The options that several commands share. Light: the program's help must not wait for torch."""

from pathlib import Path
from typing import Annotated

import typer

KindOption = Annotated[str | None, typer.Option("--kind", help="gmi, kedmi, vmi, ...: see 'fedinverse names'")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="take the attack from this TOML file, or the name of one in configs/")
]
LabelOption = Annotated[
    str | None, typer.Option("--attack", metavar="LABEL", help="with --config: which of its attacks.LABEL tables")
]
AttackSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="a setting of the attack, e.g. prior.steps=600; may be repeated"),
]
PublicOption = Annotated[str, typer.Option("--public", help="source of the attacker's images: see 'data list'")]
PublicRootOption = Annotated[str, typer.Option("--public-root", help="directory that holds it, if it needs one")]
PublicLimitOption = Annotated[int, typer.Option("--public-limit", min=0, help="at most this many of them; 0: all")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="every random number derives from it")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:1")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads; more only pay on an idle machine")]

# As in a run's [data], so that runs and commands share the priors of the same images.
PUBLIC, PUBLIC_LIMIT = "glyphs", 6000


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
