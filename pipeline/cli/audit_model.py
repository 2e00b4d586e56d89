"""``fedinverse audit-model``: audit one weights file, with the private images at hand."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DeviceOption, ResumeOption, SeedOption

EXAMPLE = """
**Examples**

fedinverse audit-model net.pth --private faces --public others \\
    --model "mynet:Net?shape=3,32,32&mean=0.5&std=0.5"
fedinverse audit-model net.safetensors --private faces --public others \\
    --held-out faces-test --set audit.evaluator.epochs=60

faces/ and others/ hold one directory of pictures per class.
"""


def audit_model(
    file: Annotated[Path, typer.Argument(help="weights: .safetensors, or what torch.save wrote")],
    private: Annotated[
        str,
        typer.Option("--private", help="images the model was trained on: one directory per class, or a data source"),
    ],
    public: Annotated[str, typer.Option("--public", help="images that an attacker has: a directory or a data source")],
    model: Annotated[
        str,
        typer.Option("--model", help='its network, if the file does not say it: "module:Net?shape=3,32,32"'),
    ] = "",
    held_out: Annotated[
        str, typer.Option("--held-out", help="images of the same classes that it was not trained on")
    ] = "",
    kind: Annotated[str, typer.Option("--kind", help="the attack: see 'fedinverse names'")] = "gmi",
    wanted: Annotated[str, typer.Option("--classes-to-invert", help="numbers, e.g. 0,3,5-9; default: all")] = "",
    width: Annotated[
        float | None, typer.Option("--width", help="width multiplier; default: read from the file")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="of attack, attacker, audit, data or split: attack.iterations=600; repeatable",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    name: Annotated[str, typer.Option("--name", help="of the run directory; default: the file's")] = "",
    out: Annotated[Path, typer.Option("--out", help="directory of run directories")] = Path("runs"),
    resume: ResumeOption = False,
) -> None:
    """Audit one weights file: attack it, beside the controls that make sense without a federation.

    Public images alone, the prior alone and an untrained network say what the attack adds. Whether anything is the
    victim's doing, only a federation with and without the victim can say: the verdict says so.
    """
    from fedinverse.machine import device_on
    from pipeline.cli.choice import numbers
    from pipeline.ownmodel.audit import audit_model as audit
    from pipeline.ownmodel.settings import ModelAudit

    device_on(device, "--device")
    classes = tuple(numbers(wanted, "--classes-to-invert")) if wanted else ()
    settings = tuple(set_ or ())
    asked = ModelAudit(file, private, public, held_out, model, width, kind, classes, name, seed, device, settings)
    audit(asked, out, resume=resume)
