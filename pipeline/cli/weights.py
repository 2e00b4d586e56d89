"""The weights a command line points to: one safetensors file, a directory of captures, or a run directory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from attacker.schedule import captured, check_received, due, together
from attacker.settings import Attacker
from attacker.target import PublicSet, Target, open_target
from attacker.worker import labels_of
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.layout import ROUND_FILES, RunFiles, is_run, spools_of
from fedinverse.models import refuse_code, spec_of
from fedinverse.overlap import shared_names
from fedinverse.records import ModelFile
from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.storage import read_metadata


@dataclass(frozen=True)
class Network:
    """What the weights belong to: a registered model, its width multiplier and its number of classes."""

    model: str
    width: float
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it takes."""
        return spec_of(self.model).input_shape


def weights_at(target: Path, settings: Attacker) -> list[Path]:
    """Return the files to invert, in the order of their rounds.

    Args:
        target: a weights file; a directory of ``round-*.safetensors`` (captures or checkpoints); or a run directory,
            which stands for its captures.
        settings: whose ``rounds`` choose among a directory's.

    Raises:
        ConfigError: nothing is there.
        IntegrityError: a file is no safetensors, or does not say which round it is.
        StageError: the directory holds no capture, or not the rounds asked for.
    """
    if not target.exists():
        raise ConfigError(f"{target} does not exist; give a .safetensors file, a capture directory or a run directory")
    if target.is_file():
        return [target]
    spool, *pooled = spools_of(Run(target).files.attacker, "with_victim") if is_run(target) else (target,)
    for path in (path for each in (spool, *pooled) for path in each.glob(ROUND_FILES)):
        if ModelFile.of(metadata_of(path)).round < 0:
            raise IntegrityError(f"{path} does not say which round it is; give that file itself instead of {target}")
    return list(due(spool, settings, Shard(torch.empty(0), torch.empty(0)), pooled=pooled).values())


def targets(
    paths: list[Path], network: Network, device: torch.device, captures: int = 1
) -> Iterator[tuple[Path, Target]]:
    """Yield every file's model, ready to be attacked.

    With ``captures`` above 1 a model of a directory also knows those of the rounds before it that join it.
    """

    def model(weights: Path) -> Target:
        return open_target(weights, network.model, network.classes, network.width, device)

    directory = captures > 1 and ModelFile.of(metadata_of(paths[0])).round >= 0
    if directory:
        check_received(paths[0].parent)
    models = captured(paths[0].parent) if directory else {}
    for path in paths:
        others = together(path, models, captures) if path in models.values() else ()
        yield path, replace(model(path), earlier=tuple(model(other) for other in others))


def shared_classes(target: Path, labels: Tensor, public: PublicSet, *, allow: bool) -> tuple[str, ...]:
    """Return the names of the classes to invert that the public images show too, where a run tells the names.

    Raises:
        ConfigError: there are such classes, and ``allow`` is not given.
    """
    if not RunFiles(target).pools.exists():
        return ()
    names = Run(target).class_names
    shared = tuple(shared_names(tuple(names[label] for label in labels.unique().tolist()), public.class_names))
    if shared and not allow:
        raise ConfigError(
            f"the public images show the classes {', '.join(shared)} that are to be inverted: what comes out could be "
            "theirs. Choose another --public, or give --allow-overlap to have every output marked"
        )
    return shared


def file_at(target: Path) -> Path:
    """Return ``target``; ``ConfigError`` if it is no file."""
    if not target.is_file():
        raise ConfigError(f"{target} is no file; give a .safetensors weights file")
    return target


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a weights file; a pickle is told from other damage, and never opened."""
    try:
        return read_metadata(path)
    except IntegrityError as error:
        # Only now: a safetensors file begins with the length of its header, which may look like either.
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"PK" and start[:1] != b"\x80":  # what torch.save and pickle.dump begin with
            raise
        raise IntegrityError(
            f"{path} is a pickle (.pth, .pt), which can run code when it is opened and is refused. If you trust it, "
            "convert it once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FILE.safetensors')"
        ) from error


def network_of(path: Path, model: str | None, width: float | None, classes: int | None) -> Network:
    """Return what the weights in ``path`` belong to: what its metadata says, and for the rest what is given.

    Raises:
        ConfigError: something is said nowhere, or said twice and differently, or the model is unknown.
        IntegrityError: no safetensors file.
    """
    about = metadata_of(path)
    given = {"model": model, "width": width, "classes": classes}
    stored = {
        "model": about.get("model"),
        "width": _number(about, "width", path),
        "classes": _number(about, "classes", path),
    }
    for key, value in given.items():
        if value is not None and stored[key] is not None and value != stored[key]:
            raise ConfigError(f"--{key} is {value}, but {path} says {stored[key]}; leave --{key} out")
    known = {key: stored[key] if given[key] is None else given[key] for key in given}
    missing = [key for key in ("model", "classes") if known[key] is None]
    if missing:
        options = " and ".join(f"--{key}" for key in missing)
        raise ConfigError(f"{path} does not say its {' and '.join(missing)}; give {options}")
    if model is None:
        refuse_code(str(known["model"]), path)
    network = Network(str(known["model"]), float(known["width"] or 1.0), int(known["classes"] or 0))
    spec_of(network.model)
    return network


def network_of_all(paths: list[Path], model: str | None, width: float | None, classes: int | None) -> Network:
    """Return the one network that all of ``paths`` belong to; as ``network_of``, and refuses a mixture."""
    networks = {path: network_of(path, model, width, classes) for path in paths}
    network = networks[paths[0]]
    for path, other in networks.items():
        if other != network:
            raise ConfigError(
                f"{paths[0]} and {path} are of different networks ({network.model}, {other.model}); "
                "attack them one by one"
            )
    return network


def labels_to_invert(settings: Attacker, network: Network) -> Tensor:
    """Return the labels to invert, int64 [classes x restarts]: those asked for, or all.

    Raises:
        ConfigError: the target does not have one of them.
    """
    labels = labels_of(settings, network.classes, Shard(torch.empty(0), torch.empty(0)))
    if int(labels.max()) >= network.classes:
        raise ConfigError(
            f"class {int(labels.max())} cannot be inverted: the target has the classes 0 to {network.classes - 1}"
        )
    return labels


def _number(about: dict[str, str], key: str, path: Path) -> float | None:
    try:
        return float(about[key]) if key in about else None
    except ValueError as error:
        raise IntegrityError(f"{path}: its metadata says {key} '{about[key]}', which is no number") from error
