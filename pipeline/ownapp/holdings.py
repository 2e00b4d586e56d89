"""Who holds what in somebody's app: its data hook asked for every client, and the images kept for the auditor."""

import hashlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from auditor.evaluators.embedding import SMALLEST_VAULT
from fedinverse.errors import ConfigError, DataError
from fedinverse.seeds import numpy_generator
from fedinverse.split import NOBODY, first_lacking
from fedinverse.theirs import TheirError, attribute_at
from pipeline.ownapp.images import Prepare, images_and_labels, rows_in, test_part, training_part
from pipeline.ownapp.settings import AppAudit

VAULT = 0.6  # of the images at no client; the rest is the reserve, as in a run's [split]


@dataclass(frozen=True)
class Holdings:
    """All images of a federation.

    Attributes:
        images: uint8 [N, C, H, W].
        manifest: as ``fedinverse.split`` makes it.
        victim_classes: those attacked.
        rows: by partition id, the rows of the hook's training part that a client trains on; all of them: empty.
    """

    images: NDArray[np.uint8]
    manifest: pd.DataFrame
    class_names: tuple[str, ...]
    victim_classes: tuple[int, ...]
    rows: dict[str, list[int]]

    def without(self, settings: AppAudit, labels: dict[str, NDArray[np.int64]]) -> dict[str, list[int]]:
        """Return ``rows`` of the world without the victim's classes."""
        gone = set(self.victim_classes)
        kept = self.rows or {str(client): list(range(len(held))) for client, held in labels.items()}
        return {client: [row for row in rows if int(labels[client][row]) not in gone] for client, rows in kept.items()}


def read_holdings(settings: AppAudit) -> tuple[Holdings, dict[str, NDArray[np.int64]]]:
    """Ask the data hook for every client; return all images, and by partition id the labels of its training part.

    Raises:
        ConfigError, DataError: what it gives does not fit; names the key of audit.toml.
        TheirError: the hook raised.
    """
    hook = attribute_at(settings.data, "data")
    count = settings.class_count
    names = tuple(map(str, range(count))) if isinstance(settings.classes, int) else settings.classes
    images: list[NDArray[np.uint8]] = []
    labels: dict[str, NDArray[np.int64]] = {}
    tests: list[tuple[NDArray[np.uint8], NDArray[np.int64]]] = []
    arguments = [_arguments(hook, settings, client) for client in range(settings.clients)]
    for client in range(settings.clients):
        who = f"data = '{settings.data}' called with ({client}, {settings.clients})"
        given = _ask(hook, who, arguments[client])
        pixels, held = _read(settings, training_part(given), who, count)
        if client == settings.victim:
            again = training_part(_ask(hook, who, arguments[client]))
            if rows_in(again) != len(held) or not np.array_equal(_read(settings, again, who, count)[1], held):
                raise DataError(f"{who} gave other images when it was asked again; let it split with a fixed seed")
        if not len(held):
            raise DataError(f"{who} gave no image")
        images.append(pixels)
        labels[str(client)] = held
        if settings.held_out == "test":
            part = test_part(given)
            if part is None:
                raise ConfigError(
                    f"held_out is 'test', but {who} gave a {type(given).__name__} with no second part; set held_out to "
                    "a function that gives images no client trains on, or to a share like 0.4"
                )
            tests.append(_read(settings, part, f"the test part of {who}", count))
    table, every = _assemble(settings, images, labels, tests)
    victims = _victim_classes(settings, table, names)
    _check_parts(table, names, settings)
    rows = {}
    if isinstance(settings.held_out, float):
        kept = table[table["part"] == "train"]
        rows = {str(client): sorted(map(int, part["own_row"])) for client, part in kept.groupby("client")}
    manifest = _without_copies(table, settings)
    return Holdings(every[manifest["row"].to_numpy()], _numbered(manifest), names, victims, rows), labels


def read_public(settings: AppAudit) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the attacker's public images and their labels, from the function that ``public`` names.

    Raises:
        DataError: it gives none, or none in [0, 1] of the network's shape.
    """
    who, said = f"public = '{settings.public}' called without arguments", settings.declaration
    given = training_part(_ask(attribute_at(settings.public, "public"), who))
    images, labels = images_and_labels(given, said.shape, said.images, None, who)
    if not len(labels) or labels.min() < 0:
        raise DataError(f"{who} gave {len(labels)} images; some with labels from 0 on are needed")
    return images, labels


def _arguments(hook: Callable[..., Any], settings: AppAudit, client: int) -> inspect.BoundArguments:
    """Return the arguments that ``hook`` is asked for ``client`` with: who, of how many if it takes that, and the rest.

    Raises:
        ConfigError: it cannot be called so; shows what it takes.
    """
    signature, more = inspect.signature(hook), settings.data_arguments
    try:
        return signature.bind(client, settings.clients, **more)
    except TypeError as error:
        with suppress(TypeError):
            return signature.bind(client, **more)  # it knows how many there are
        who = f"data = '{settings.data}' cannot be called with (partition_id, num_partitions)"
        given = f" and data_arguments = {more}" if more else ""
        raise ConfigError(
            f"{who}{given}: {error}. It takes {signature}; write what else it needs, by name, in data_arguments"
        ) from None


def _ask(hook: Callable[..., Any], who: str, arguments: inspect.BoundArguments | None = None) -> Any:
    try:
        return hook() if arguments is None else hook(*arguments.args, **arguments.kwargs)
    except Exception as error:
        raise TheirError(f"{who} failed", error) from error


def _read(settings: AppAudit, part: Any, who: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    said = settings.declaration
    names = () if isinstance(settings.classes, int) else settings.classes
    images, labels = images_and_labels(part, said.shape, said.images, _undo(settings), who, names)
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        raise DataError(
            f"{who} gave labels from {labels.min()} to {labels.max()}, but classes = {count} are 0 to {count - 1}; "
            "correct classes, or the labels"
        )
    return images, labels


def _undo(settings: AppAudit) -> Prepare | None:
    """Return the function from the network's input back to pixels, for a hook that normalises."""
    if settings.pixels == "unit":
        return None
    mean, std = (
        torch.tensor(values or (neutral,)).view(-1, 1, 1)
        for values, neutral in ((settings.inputs.mean, 0.0), (settings.inputs.std, 1.0))
    )
    return lambda images: images * std + mean


def _assemble(
    settings: AppAudit,
    images: list[NDArray[np.uint8]],
    labels: dict[str, NDArray[np.int64]],
    tests: list[tuple[NDArray[np.uint8], NDArray[np.int64]]],
) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """Return a row per image with its part and client, and the images in that order."""
    frames = [
        pd.DataFrame({"label": held, "client": int(client), "own_row": np.arange(len(held)), "part": "train"})
        for client, held in labels.items()
    ]
    if isinstance(settings.held_out, float):
        for frame in frames:
            _keep_back(frame, settings.held_out, settings.seed)
    else:
        if settings.held_out != "test":
            who = f"held_out = '{settings.held_out}'"
            tests = [_read(settings, training_part(_ask(attribute_at(settings.held_out, "held_out"), who)), who,
                           settings.class_count)]  # fmt: skip
        frames.append(pd.DataFrame({"label": np.concatenate([held for _, held in tests]), "client": NOBODY,
                                    "own_row": -1, "part": "held"}))  # fmt: skip
    every = np.concatenate([*images, *(pixels for pixels, _ in tests)])
    table = pd.concat(frames, ignore_index=True)
    table["row"] = np.arange(len(table))
    table["sha256"] = [hashlib.sha256(image.tobytes()).hexdigest() for image in every]
    trained = set(table.loc[table["part"] == "train", "sha256"])
    table.loc[(table["part"] == "held") & table["sha256"].isin(trained), "part"] = (
        "unused"  # a copy of a training image
    )
    for label in table["label"].unique().tolist():
        mine = table.index[(table["part"] == "held") & (table["label"] == label)]
        first = table.loc[mine].drop_duplicates("sha256").index.to_numpy(copy=True)  # none: numpy shuffles in place
        order = numpy_generator(settings.seed, "held out", label).permutation(first)
        vault = set(table.loc[order[: round(len(order) * VAULT)], "sha256"])
        table.loc[mine, "part"] = np.where(table.loc[mine, "sha256"].isin(vault), "vault", "reserve")
    table.loc[table["part"].isin(["vault", "reserve", "unused"]), "client"] = NOBODY
    return table, every


def _keep_back(frame: pd.DataFrame, share: float, seed: int) -> None:
    """Mark ``share`` of every class of one client as kept back."""
    client = int(frame["client"].iloc[0])
    for label in frame["label"].unique().tolist():
        rows = frame.index[frame["label"] == label].to_numpy()
        order = numpy_generator(seed, "kept back", client, label).permutation(rows)
        frame.loc[order[: round(len(rows) * share)], "part"] = "held"


def _victim_classes(settings: AppAudit, table: pd.DataFrame, names: tuple[str, ...]) -> tuple[int, ...]:
    """Return the classes to attack, checked: the victim holds them, and nobody else. None: they have no class alone,
    and the question is whether images are theirs or the class's.
    """
    train = table[table["part"] == "train"]
    holders = {
        int(label): sorted(map(int, set(train.loc[train["label"] == label, "client"]))) for label in set(train["label"])
    }
    alone = tuple(label for label, clients in sorted(holders.items()) if clients == [settings.victim])
    wanted = tuple(
        names.index(each) if isinstance(each, str) and each in names else each for each in settings.victim_classes
    )
    unknown = [each for each in wanted if not isinstance(each, int) or not 0 <= each < len(names)]
    if unknown:
        raise ConfigError(f"victim_classes: {unknown} are no classes; classes are {', '.join(names[:20])}")
    numbers = tuple(int(each) for each in wanted)
    shared = {names[label]: holders.get(label, []) for label in numbers if label not in alone}
    if not numbers and not alone and settings.without == "client":
        return ()
    if shared or not alone:
        only = {
            client: mine
            for client in range(settings.clients)
            if (mine := [names[label] for label, clients in holders.items() if clients == [client]])
        }
        who = f"client {settings.victim} (victim) holds no class alone" if not shared else (
            f"victim_classes: {', '.join(f'{name} is held by clients {c or None}' for name, c in shared.items())}"
        )  # fmt: skip
        raise ConfigError(
            f"{who}, and the control world would have it all the same. Choose a victim who holds classes alone "
            f"({_few(only) or 'nobody does'}), or leave out victim_classes and without: their node is hidden then, and "
            "the question is whether images are theirs or the class's"
        )
    if settings.attacker in {client for label in numbers or alone for client in holders.get(label, [])}:
        raise ConfigError(f"attacker: client {settings.attacker} holds a class of the victim; choose another attacker")
    return numbers or alone


def _few(only: dict[int, list[str]]) -> str:
    examples = [f"client {client}: {', '.join(names[:5])}" for client, names in list(only.items())[:5]]
    return "; ".join(examples)


def _check_parts(table: pd.DataFrame, names: tuple[str, ...], settings: AppAudit) -> None:
    """Refuse a class that lacks images of some part."""
    lacking = first_lacking(table, names)
    if lacking is not None:
        name, parts = lacking
        raise DataError(
            f"class '{name}' has no image for {' and '.join(parts)}: held_out = {settings.held_out!r} must leave "
            "at least two images of every class to the auditor, and data at least one to the clients"
        )
    vault = int((table["part"] == "vault").sum())
    if vault < SMALLEST_VAULT:
        raise DataError(
            f"held_out = {settings.held_out!r} leaves {vault} images to train the evaluator on ({VAULT:.0%} of what no "
            f"client trains on); {SMALLEST_VAULT} are needed at least"
        )


def _without_copies(table: pd.DataFrame, settings: AppAudit) -> pd.DataFrame:
    """Return one row per different image; one that several clients hold is the victim's, or the first's, and lent."""
    train = table[table["part"] == "train"].copy()
    train["first"] = (train["client"] != settings.victim).astype(int)
    train = train.sort_values(["first", "client", "own_row"])
    holders = train.groupby("sha256")["client"].agg(set)
    single = train.drop_duplicates("sha256").drop(columns="first")
    rest = table[table["part"] != "train"].drop_duplicates("sha256")
    rest = rest[~rest["sha256"].isin(set(single["sha256"]))]
    both = pd.concat([single, rest]).sort_values("row")
    if bool((holders.map(len) > 1).any()):
        bits = np.zeros((len(both), settings.clients), np.bool_)
        for place, (sha, owner) in enumerate(zip(both["sha256"], both["client"], strict=True)):
            for client in holders.get(sha, set()) - {owner}:
                bits[place, client] = True
        both["borrowers"] = [row.tobytes() for row in np.packbits(bits, axis=1)]
    return both


def _numbered(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest with rows that index its own images, and a manifest's columns."""
    numbered = manifest.assign(row=np.arange(len(manifest)))
    extra = [name for name in ("borrowers",) if name in numbered]
    return numbered[["row", "sha256", "label", "part", "client", *extra]].reset_index(drop=True)
