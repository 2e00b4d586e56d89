"""``fedinverse data list | check | prepare``: what images there are, whether they are whole, and a look at them."""

from typing import Annotated

import typer

from pipeline.cli.program import Program

app = Program(help="List, check and prepare the image sources.")

NameArgument = Annotated[str, typer.Argument(help="a source: see 'fedinverse data list'")]
RootOption = Annotated[str, typer.Option("--root", help="directory that holds the data, if it needs one")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="of what is drawn and of who is private")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="at most this many images; 0: all")]
ShapeOption = Annotated[
    str, typer.Option("--shape", metavar="CxHxW", help="default: 1x32x32 or 3x64x64, by the source's channels")
]


@app.command("list")
def list_() -> None:
    """List the sources, their channels, what is prepared of them and how to obtain them."""
    from rich.markup import escape
    from rich.table import Table

    from fedinverse.data import source_names, source_of
    from pipeline.cli.pools import prepared
    from report.console import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("source", no_wrap=True, style="bold")
    table.add_column("channels", justify="right")
    table.add_column("prepared", justify="right")
    table.add_column("how to obtain it", overflow="fold")
    for name in source_names():
        source = source_of(name)
        base = name.removesuffix("_public")
        same = name != base and source.obtain == source_of(base).obtain
        obtain = f"as {base}; other people" if same else source.obtain
        table.add_row(name, str(source.channels), str(len(prepared(name)) or "–"), escape(obtain))
    console.print(table)


@app.command()
def check(name: NameArgument, root: RootOption = "", shape: ShapeOption = "", seed: SeedOption = 0) -> None:
    """Tell whether a source is there and readable, and whether what was prepared of it is unaltered."""
    from pipeline.cli.pools import TRIED, outdated, prepared, request_of, tried
    from report.console import console, echo, say

    request = request_of(name, shape, root, TRIED, seed)
    with console.status(f"reading {name}"):
        loaded, pools = tried(request), prepared(name)
        for pool in pools:
            pool.verify()
        stale = outdated(pools, request)
    say(name, f"is there: {loaded.origin}; {loaded.licence}")
    console.print(
        f"  {len(loaded.images)} images of {len(loaded.class_names)} classes read ('prepare' reads all there are)"
    )
    for line in loaded.left_out:
        echo(f"  left out: {line}")
    console.print(f"  {len(pools)} prepared pool(s), every byte as it was made")
    for pool in stale:
        echo(
            f"  {pool.path} was read before files of {request.root} changed: only runs that were prepared with it use "
            "it; the next one reads the files anew"
        )


@app.command()
def prepare(
    name: NameArgument,
    root: RootOption = "",
    limit: LimitOption = 0,
    shape: ShapeOption = "",
    seed: SeedOption = 0,
) -> None:
    """Decode a source into the cache, once for all runs with the same root, limit, shape and seed."""
    from fedinverse.data import open_source
    from pipeline.cli.pictures import shape_text
    from pipeline.cli.pools import draw, request_of
    from report.console import console, echo, say

    request = request_of(name, shape, root, limit, seed)
    with console.status(f"preparing {name}"):
        pool = open_source(request)
        pool.verify()
        picture = draw(pool)
    size, count, classes = shape_text(request.shape), len(pool.labels), len(pool.class_names)
    say(name, f"{size}: {count} images, {classes} classes")
    for line in (pool.about["origin"], pool.about["licence"], pool.path, picture):
        echo(f"  {line}")
