"""``fedinverse convert`` and ``fedinverse export``: published weights to ours, and published names for ours."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="a run directory, e.g. runs/paper-mnist")]


def convert(
    file: Annotated[Path, typer.Argument(help="a checkpoint made by torch.save: .pth, .pt, .tar")],
    model: Annotated[
        str,
        typer.Option("--model", help="see 'fedinverse names'; or your own: \"module:Net?shape=3,32,32\""),
    ],
    out: Annotated[Path, typer.Option("--out", help="the .safetensors file to write")],
    width: Annotated[
        float | None, typer.Option("--width", min=0.01, help="its width multiplier; default: read from the file")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, help="number of classes; default: read from the file")
    ] = None,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="leave its classifier out: for model.weights, to start a federation from")
    ] = False,
) -> None:
    """Convert a checkpoint for one of our networks or for your own, once. No code of the file is run.

    Every array must have its place and shape; those that have not are listed and nothing is written.
    """
    from fedinverse.errors import ConfigError
    from fedinverse.models.published import BACKBONE, read_pickle
    from fedinverse.models.published import convert as converted
    from fedinverse.original import OriginalName
    from fedinverse.records import ModelFile
    from fedinverse.storage import save_weights, to_weights
    from report.console import echo, say

    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: name a .safetensors file")
    conversion = converted(read_pickle(file), model, width, str(file), backbone=backbone, classes=classes)
    weights = to_weights(conversion.network)
    about: dict[str, str | int | float] = {"model": model, "width": conversion.width, "origin": file.name}
    if backbone:
        weights = {name: value for name, value in weights.items() if name.startswith("blocks.")}
        about["part"] = BACKBONE
    else:
        about["classes"] = conversion.network.classes
    if OriginalName.matches(file.name):
        named = OriginalName.parse(file.name)
        about = ModelFile.metadata(named.round, about) | {"accuracy": named.accuracy}
    save_weights(out, weights, about)
    size = f"width {conversion.width:g}" + ("" if backbone else f", {conversion.network.classes} classes")
    say(model, f"{size}, {len(weights)} arrays in {out}")
    if conversion.left_out:
        echo(f"  left out: {', '.join(conversion.left_out)}")


def export(
    run: RunArgument,
    server_round: Annotated[int, typer.Option("--round", min=0, help="which global model")],
    out: Annotated[Path, typer.Option("--out", help="the directory to write into")] = Path(),
) -> None:
    """Write a run's global model after a round under the name that the original FedInverse would give it."""
    from clients.settings import Training
    from fedinverse.config import Data
    from fedinverse.original import DATA_SETS, NETWORKS, OriginalName
    from fedinverse.rounds import kept_checkpoint
    from fedinverse.run import Run
    from fedinverse.storage import load_weights, save_weights
    from report.console import echo
    from server.settings import Federation

    opened = Run(run.resolve())
    source, network = opened.section("data", Data).private, opened.model.name
    weights, about = load_weights(kept_checkpoint(opened, "with_victim", server_round))
    training, federation = opened.section("training", Training), opened.section("federation", Federation)
    name = OriginalName(
        {ours: theirs for theirs, ours in DATA_SETS.items()}.get(source, source),
        {ours: theirs for theirs, ours in NETWORKS.items()}.get(network, network),
        opened.population.partition == "iid",
        server_round,
        federation.fraction_train,
        training.epochs,
        training.batch_size,
        float(about["accuracy"]),
    )
    written = out / name.format(".safetensors")
    save_weights(written, weights, {key: value for key, value in about.items() if key != "sha256"})
    echo(str(written))
