"""``audit.toml``: what must be known of an app to audit it. Every field is a key of the file; its text goes into it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from attacker.settings import Attacker
from auditor.settings import Audit, Evaluator
from fedinverse.config import FileName, PlaceText, Section, parse
from fedinverse.errors import ConfigError
from fedinverse.models.declared import Declaration
from fedinverse.tables import read_table

FILE = "audit.toml"
# Evaluators by the images they look at, the usual one first; the next is for targets of its own architecture.
JUDGES = {(1, 32, 32): ("scnn", "mcnn"), (3, 32, 32): ("resnet18_32",), (3, 64, 64): ("resnet18", "facenet112")}


def _several(value: Any) -> Any:
    """Return one value as a sequence of it; a list as a tuple, which is what comes out."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, int | float) else value


PerChannel = Annotated[tuple[float, ...], BeforeValidator(_several)]

# An attack of the quick start's size: minutes on a CPU, where the published GAN of 20,000 steps takes hours to days.
ATTACK: dict[str, Any] = {
    "kind": "gmi",
    "identity_loss": "max_margin",
    "iterations": 200,
    "lr": 2e-4,
    "prior": {"width": 0.25, "steps": 600, "critic_steps": 3, "batch_size": 32, "lr": 1e-3},
}


class Inputs(Section):
    """How pixels become the network's input."""

    shape: tuple[int, int, int] = Field(description="channels, height, width of the images the network takes")
    mean: PerChannel = Field((), description="(pixels - mean) / std is its input; one value, or one per channel")
    std: PerChannel = Field((), description="see mean")
    transform: str = Field("", description="package.module:function from pixels [B, C, H, W] to its input, after those")


class AppAudit(Section):
    """The file."""

    app: str = Field(".", description="directory of the app's pyproject.toml, relative to this file")
    clients: int = Field(ge=3, le=100_000, description="simulated SuperNodes: partition ids 0 to clients - 1")
    attacker: int = Field(ge=0, description="partition id of the malicious client")
    victim: int = Field(0, ge=0, description="partition id of the client whose classes are attacked")
    model: str = Field(description="package.module:Name of the class or function that makes the network")
    model_arguments: dict[str, Any] = Field({}, description="its arguments, if it needs any")
    output: str = Field(
        "logits",
        description="what its forward returns: logits (also .logits, ['logits'], or first of a tuple), probabilities, "
        "or package.module:function to logits",
    )
    features: str = Field("", description="layer whose input is the penultimate features; empty: the last nn.Linear")
    classes: int | tuple[str, ...] = Field(description="number of classes, or their names")
    data: str = Field(
        description="package.module:function (partition_id, num_partitions) -> what the client trains on: a dataset, a "
        "DataLoader, arrays (images, labels), or a pair (training, test) of those"
    )
    data_arguments: dict[str, Any] = Field(
        {}, description="further arguments of data by name, e.g. { batch_size = 32 }"
    )
    pixels: Literal["unit", "input"] = Field(
        "unit",
        description="data gives pixels in [0, 1] (or 0 to 255), or the normalised input: mean and std are undone",
    )
    held_out: str | float = Field(
        0.4,
        description="images that no client trains on, for the auditor: package.module:function () -> dataset; 'test': "
        "the second of data's pair; or the share that data keeps back from every client",
    )
    state: Literal["state_dict", "list", "parameters"] = Field(
        "state_dict",
        description="what the app sends: named arrays, or a bare list of state_dict().values() or of parameters()",
    )
    record: str = Field("", description="name of the message's array record with the weights; empty: the largest one")
    without: Literal["client", "classes"] = Field(
        "client", description="control world: the victim's node is hidden, or their classes are taken out of data"
    )
    victim_classes: tuple[int | str, ...] = Field((), description="empty: all classes that the victim alone holds")
    public: str = Field(
        description="the attacker's public images: a data source ('fedinverse names'), e.g. imagefolder with "
        "public_root, or package.module:function () -> dataset with pixels in [0, 1]"
    )
    public_root: str = Field("", description="directory of public images, where the source needs one")
    public_limit: int = Field(6000, ge=0, description="use at most this many of them; 0: all")
    name: FileName = Field("app", description="names the run directory")
    out: PlaceText = Field("runs", description="directory of run directories, relative to where you stand")
    seed: int = Field(0, ge=0, lt=2**31, description="of attack and audit (the app draws its own)")
    engine: Literal["flower", "local"] = Field(
        "flower", description="flower: Flower's simulation runtime; local: clients one after the other in one process"
    )
    actors: int = Field(0, ge=0, description="flower: client processes at a time; 0: one per core")
    patience: float = Field(60.0, gt=0, description="seconds a strategy may wait for more nodes before it is stopped")
    inputs: Inputs = Field(description="the network's input")
    run_config: dict[str, Any] = Field({}, description="overrides of the app's own [tool.flwr.app.config]")
    attack: dict[str, Any] = Field(ATTACK, description="the attack, as a table [attacks.LABEL] of a run")
    schedule: Attacker = Field(Attacker(), description="as the table [attacker] of a run")
    audit: Audit | None = Field(None, description="as the table [audit] of a run")

    @model_validator(mode="after")
    def _possible(self) -> "AppAudit":
        for key in ("attacker", "victim"):
            if getattr(self, key) >= self.clients:
                raise ValueError(f"{key} is {getattr(self, key)}, but clients = {self.clients} run from 0; lower it")
        if self.attacker == self.victim:
            raise ValueError(f"attacker and victim are both {self.victim}; choose two clients")
        if isinstance(self.held_out, float) and not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out:g}; a share lies between 0 and 1")
        return self

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def declaration(self) -> Declaration:
        """The network, and what is said of it."""
        output = "" if self.output == "logits" else self.output
        return Declaration(
            self.model,
            self.inputs.shape,
            self.inputs.mean,
            self.inputs.std,
            self.inputs.transform,
            output,
            self.features,
            canvas_for(self.inputs.shape),
            self.model_arguments,
        )


def canvas_for(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return (H, W) of the images that attacks and evaluators use for a network that takes ``shape``; empty: the same.

    Evaluators exist for 32 x 32 grey and for 32 x 32 and 64 x 64 colour images. Smaller ones get a black border, which
    is cut off again before the network sees it; larger ones are reduced, and enlarged for the network.

    Raises:
        ConfigError: images of neither one nor three channels.
    """
    channels, height, width = shape
    if channels not in (1, 3):
        raise ConfigError(f"inputs.shape = {list(shape)}: images of 1 or 3 channels can be audited")
    side = 64 if channels == 3 and max(height, width) > 32 else 32
    return () if (height, width) == (side, side) else (side, side)


def default_evaluator(shape: tuple[int, int, int]) -> Evaluator:
    """Return the evaluator for a network that takes images of ``shape``."""
    return Evaluator(model=JUDGES[shape][0])


def read_settings(path: Path, assignments: list[str] | tuple[str, ...] = ()) -> AppAudit:
    """Read an ``audit.toml``.

    Raises:
        ConfigError: absent, or not as it should be: one line per problem, each naming file, key and fix.
    """
    if not path.exists():
        raise ConfigError(f"{path} does not exist; write one with: fedinverse audit-app {path.parent} --init")
    return parse(AppAudit, read_table(path, assignments), "", str(path))
