"""``fedinverse attack``: invert captured models or one weights file. Needs no run directory, no Ray and no Flower.

The result lies where a run's worker would put it, ``OUT/LABEL/TARGET-CONFIG/``, in the same format; with the same
public set and seed it shares the cached priors with runs. Whether the public images show a class of the target is
checked where a run directory tells what its classes are called; weights alone do not.
"""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import (
    PUBLIC,
    PUBLIC_LIMIT,
    AttackSetOption,
    ConfigOption,
    DeviceOption,
    KindOption,
    LabelOption,
    PublicLimitOption,
    PublicOption,
    PublicRootOption,
    SeedOption,
    ThreadsOption,
)


def attack(
    target: Annotated[Path, typer.Argument(help="weights file, directory of captures, or run directory")],
    kind: KindOption = None,
    config: ConfigOption = None,
    label: LabelOption = None,
    set_: AttackSetOption = None,
    model: Annotated[str | None, typer.Option("--model", help="network of a file that does not say it")] = None,
    width: Annotated[float | None, typer.Option("--width", help="its width multiplier, if not 1")] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=2, help="its number of classes")] = None,
    public: PublicOption = PUBLIC,
    public_root: PublicRootOption = "",
    public_limit: PublicLimitOption = PUBLIC_LIMIT,
    wanted: Annotated[str, typer.Option("--classes-to-invert", help="e.g. 0,3,5-9; default: all")] = "",
    restarts: Annotated[int, typer.Option("--restarts", min=1, help="reconstructions per class")] = 10,
    rounds: Annotated[str, typer.Option("--rounds", help="of a directory: every, last, or a list like 2,5")] = "last",
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="public images may show a class to invert; every output is marked")
    ] = False,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 1,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option("--out", help="where the inversions go")] = Path("inversions"),
) -> None:
    """Invert captured models, or one weights file, with one attack. What is inverted already is not done again.

    TARGET is a .safetensors weights file, a directory of captures or checkpoints, or a run directory (its captures).
    """
    import torch

    from attacker.inversion import invert, place
    from fedinverse.machine import device_on, keep_freed_memory
    from pipeline.cli.choice import chosen_attack, chosen_schedule, public_set
    from pipeline.cli.pictures import HEADER, PICTURE, draw, line_of, name_of, overlap_mark
    from pipeline.cli.weights import labels_to_invert, network_of_all, shared_classes, targets, weights_at
    from report.console import Bars, console, echo, progress_bar, say, table

    chosen = chosen_attack(kind, config, label, set_ or [])
    schedule = chosen_schedule(rounds, wanted, restarts, device)
    paths = weights_at(target, schedule)
    network = network_of_all(paths, model, width, classes)
    labels = labels_to_invert(schedule, network)
    where = device_on(device, "--device")
    torch.set_num_threads(threads)
    keep_freed_memory()
    images = public_set(public, network.shape, public_root, public_limit, seed)
    shared = shared_classes(target, labels, images, allow=allow_overlap)
    lines = []
    for path, victim in targets(paths, network, where, chosen.attack.settings.captures):
        others = [each.sha256 for each in victim.earlier]
        inversion = place(
            out, chosen.label, chosen.attack, chosen.attack.table, victim.sha256, labels, seed, images.key, others
        )
        name = name_of(victim, path)
        if inversion.done:
            console.print(f"{name}: {chosen.label} inverted it already", soft_wrap=True)
        else:
            say("Inverting", f"{name} with {chosen.label}: {len(labels)} images on {device}")
            with progress_bar() as bar:
                invert(chosen.attack, inversion, victim, images, labels, seed, Bars(bar), shared)
        draw(inversion)
        for note in inversion.about.notes:
            echo(f"  {note}", "yellow")
        lines.append(line_of(name, inversion))
        echo(f"  {inversion.path}")
    table("Inversions", HEADER, lines)
    if shared:
        console.print(overlap_mark(shared), soft_wrap=True, style="yellow")
    console.print(
        f"Each directory has a picture, {PICTURE}: a row per class, best first. Confidence is the target's own, and "
        "noise can have it too: whether anything leaked, only an audit with private images can say.",
        soft_wrap=True,
        style="dim",
    )
