"""``fedinverse audit-app``: point the instrument at a Flower app that we did not write."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import OutOption, ResumeOption, SetOption

EXAMPLE = """
**Examples**

fedinverse audit-app myapp --init     first: writes myapp/audit.toml
fedinverse audit-app myapp            then: the whole audit, to report.html
"""


def audit_app(
    path: Annotated[Path, typer.Argument(help="directory of a Flower app, or its audit.toml")],
    init: Annotated[bool, typer.Option("--init", help="write audit.toml from what the app says, and stop")] = False,
    set_: SetOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Audit your own Flower app: nothing in it changes; audit.toml says what must be known of it."""
    from pipeline.ownapp.audit import audit_app as audit
    from pipeline.ownapp.init import init as write
    from report.console import console

    if init:
        written = write(path)
        console.print(f"{written} is written. Look through it, then: fedinverse audit-app {path}", soft_wrap=True)
    else:
        audit(path, set_ or [], out, resume=resume)
