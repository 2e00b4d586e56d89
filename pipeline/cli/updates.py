"""``fedinverse updates``: what was in somebody's last batches? Of a run, or of the spools of malicious nodes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import DeviceOption, SeedOption

if TYPE_CHECKING:
    from attacker.settings import Updates

EXAMPLES = """
**Examples**

fedinverse updates runs/quickstart                     of a finished run
fedinverse updates runs/quickstart --set images=16

fedinverse updates spool --set local_steps=8 --set rate=0.01
fedinverse updates spool-a spool-b --clients 10 ...    of two who pool

Of spools, say how the others train: a capture does not.
"""

PICTURE = "reconstructions.png"


def updates(
    targets: Annotated[
        list[Path], typer.Argument(help="run directory, or directories of captures", metavar="TARGET...")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting of [updates], e.g. images=16; repeatable"),
    ] = None,
    shard: Annotated[
        Path | None, typer.Option("--shard", help="of captures: the attacker's own images, to read labels by")
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--clients", min=1, help="of captures: how many clients train in a round")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    out: Annotated[Path, typer.Option("--out", help="of captures: where images go")] = Path("updates"),
) -> None:
    """Invert the update between two consecutive captures: labels first, then images.

    Of a run, the auditor holds the images against the victim's and against the same attack without the victim.
    Of captures, images and label shares are written; only somebody with the private images can judge them.
    """
    from fedinverse.errors import ConfigError
    from fedinverse.layout import is_run

    if any(is_run(target) for target in targets):
        if len(targets) > 1 or shard is not None or clients is not None:
            raise ConfigError(f"{targets[0]} is a run directory, which knows the rest; leave everything but --set out")
        _of_run(targets[0], set_ or [])
    else:
        _of_spools(targets, [*(set_ or []), f'device="{device}"'], shard, clients, seed, out)


def _settings(table: dict[str, Any]) -> "Updates":
    from attacker.settings import Updates
    from fedinverse.config import parse

    return parse(Updates, table, "updates", "--set")


def _of_run(directory: Path, assignments: list[str]) -> None:
    from pipeline.cli.held import asked_again
    from pipeline.stages.updates import updates as stage
    from report.console import say

    with asked_again(directory, "updates", _settings, assignments) as run:
        stage(run)
        say("Picture", str(run.files.auditor.updates_picture))


def _of_spools(
    spools: list[Path], assignments: list[str], shard: Path | None, clients: int | None, seed: int, out: Path
) -> None:
    import torch

    from attacker.updates.pairs import pairs
    from attacker.updates.store import invert_update, place
    from fedinverse.errors import ConfigError
    from fedinverse.seeds import threads
    from fedinverse.shard import Shard, open_shard
    from fedinverse.storage import load_weights
    from fedinverse.tables import assigned
    from pipeline.cli.pictures import save_sheet
    from pipeline.stages.updates import seat_of
    from report.console import Bars, echo, progress_bar, say, table
    from report.text import share

    for spool in spools:
        if not spool.is_dir():
            raise ConfigError(f"{spool} is no directory; give a run directory or directories of captures")
    settings = _settings(assigned({}, assignments))
    held = open_shard(shard) if shard is not None else Shard.empty()
    chosen = pairs(spools, settings)
    took_part = any(pair.replies for pair in chosen)
    seat = seat_of(held, settings, None, len(held), clients if took_part else 1, seed, "--set")
    rows = []
    for pair in chosen:
        where = place(out, pair, seat, settings, None)
        if not where.done:
            with threads(1), progress_bar() as bar:
                invert_update(pair, seat, settings, where, None, Bars(bar))
        arrays, _ = load_weights(where.images)
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
        save_sheet(where.path / PICTURE, [images[labels == label] for label in labels.unique()], caption="")
        top = sorted(enumerate(arrays["shares"].tolist()), key=lambda pair: -pair[1])[:5]
        about = where.about
        rows.append(
            [
                str(pair.round),
                str(len(labels)),
                ", ".join(f"{label}: {share(part)}" for label, part in top),
                f"{about.distance:.3f}",
                f"{about.seconds:.1f}",
            ]
        )
        for note in about.notes:
            echo(f"  {note}", "yellow")
        say("Images", str(where.path))
    table("Inverted updates", ["round", "images", "classes of the others (share)", "1 - cos", "seconds"], rows)
