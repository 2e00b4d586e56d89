"""``fedinverse prior train | add | list | show``: the cache of trained priors, and what their samples look like."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options
from pipeline.cli.program import Program

app = Program(help="Train, add, list and look at the priors that attacks sample from.")


@app.command()
def train(
    kind: options.KindOption = None,
    config: options.ConfigOption = None,
    label: options.LabelOption = None,
    set_: options.AttackSetOption = None,
    target: Annotated[
        Path | None, typer.Option("--target", help="the captured model, for attacks that train their prior against it")
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="of the images; a --target knows its own")] = "1x32x32",
    public: options.PublicOption = options.PUBLIC,
    public_root: options.PublicRootOption = "",
    public_limit: options.PublicLimitOption = options.PUBLIC_LIMIT,
    device: options.DeviceOption = "cpu",
    threads: options.ThreadsOption = 1,
    seed: options.SeedOption = 0,
) -> None:
    """Train the prior of an attack into the cache, where runs with the same settings, images and seed find it."""
    import torch

    from attacker.target import open_target
    from fedinverse.errors import ConfigError
    from fedinverse.machine import device_on, keep_freed_memory
    from pipeline.cli.choice import chosen_attack, public_set
    from pipeline.cli.pictures import shape_of
    from pipeline.cli.priors import describe
    from pipeline.cli.weights import file_at, network_of
    from report.console import Bars, echo, progress_bar, say

    chosen = chosen_attack(kind, config, label, set_ or [])
    where = device_on(device, "--device")
    size, victim = shape_of(shape), None
    torch.set_num_threads(threads)
    keep_freed_memory()
    if target is not None:
        network = network_of(file_at(target), None, None, None)
        size = network.shape
        victim = open_target(target, network.model, network.classes, network.width, where)
    elif chosen.attack.needs.target_at_prior:
        raise ConfigError(f"'{chosen.attack.name}' trains its prior against the captured model; give it with --target")
    images = public_set(public, size, public_root, public_limit, seed)
    with progress_bar() as bar:
        prior = chosen.attack.prior(victim, images, seed, where, Bars(bar))
    entry = describe(prior, chosen.attack, images, seed, where)
    say("Prior", f"{entry.name} {entry.key}: trained in {prior.seconds:.3f} s, now or before")
    echo(f"  {entry.path}\n  {entry.picture}")


@app.command()
def add(
    architecture: Annotated[
        str, typer.Argument(metavar="NETWORK", help="dcgan, or package.module:Class of a torch.nn.Module of yours")
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="its .safetensors file; a class may have its own")
    ] = None,
    shape: Annotated[str, typer.Option("--shape", help="of dcgan's images")] = "1x32x32",
    width: Annotated[float, typer.Option("--width", min=0.01, help="dcgan's width multiplier")] = 1.0,
) -> None:
    """Check a generator trained elsewhere and keep it in the cache; attacks take it with --set generator=KEY."""
    import torch

    from attacker.priors.external import Network, add_external, external_prior
    from pipeline.cli.pictures import shape_of
    from pipeline.cli.priors import describe_external
    from pipeline.cli.weights import file_at
    from report.console import echo, say

    network = Network(architecture, shape_of(shape), width)
    file = None if weights is None else file_at(weights)
    prior = external_prior(add_external(network, file), torch.device("cpu"))
    entry = describe_external(prior, network, str(file or architecture))
    say("Prior", f"{entry.name} {entry.key}: use it with --set generator={entry.key}")
    echo(f"  {entry.path}\n  {entry.picture}")


@app.command("list")
def list_() -> None:
    """List the priors that come with the package and the cached ones."""
    from attacker.priors.shipped import zoo
    from pipeline.cli.priors import HEADER, SHIPPED_HEADER, cached_priors, shipped_line
    from report.console import console, table

    table("Shipped priors", SHIPPED_HEADER, [shipped_line(entry) for entry in zoo()])
    lines = [entry.line for entry in cached_priors()]
    if lines:
        table("Priors", HEADER, lines)
    else:
        console.print("no prior is cached; 'fedinverse prior train --kind gmi' trains one, and so does a run")


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="the key that 'list' shows, or its beginning; or a shipped prior's name")],
) -> None:
    """Show what one prior was made from, and where its samples are pictured."""
    from pipeline.cli.priors import all_about
    from report.console import say

    for name, value in all_about(key).items():
        say(f"{name:<10}", str(value))
