"""The split manifest: for every private image its hash, class, part and client. Made once, from one seed.

Parts: ``train`` images are at clients, ``vault`` images train the evaluators and are at no client, ``reserve`` images
are in no training set at all, ``unused`` images were dealt to nobody. The victim classes' train images are all at the
victim. Where clients overlap, ``borrowers`` says who else holds an image.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedinverse.config import Population, Split
from fedinverse.data import Pool
from fedinverse.errors import ConfigError
from fedinverse.partition import borrowed, check_holders, spread
from fedinverse.seeds import numpy_generator

NOBODY = -1


def make_split(pool: Pool, split: Split, population: Population, seed: int, parts: int | None = None) -> pd.DataFrame:
    """Divide the images of ``pool``.

    Args:
        pool: all private images.
        split: how many of every class are at clients, in the vault, in reserve.
        population: who holds those at clients.
        seed: draws who holds what.
        parts: draws which images are in which part; None: ``seed`` does.

    Returns:
        One row per image: ``row`` (index into the pool), ``sha256`` of its pixels, ``label``, ``part`` and
        ``client`` (-1: at no client); with ``population.overlap`` also ``borrowers``, one bit per client, the first
        client's highest in the first byte (``numpy.packbits``). Byte-identical images share one part and one
        client, so that no copy of a training image waits in the vault; those that stand under two classes are unused,
        since whoever held one would hold an image of the other's class, and so are those in the folders of two clients.

    Raises:
        ConfigError: unknown victim class, or a class that has no image for one of the three parts; names it.
    """
    labels = np.asarray(pool.labels)
    if len(set(population.victim_classes)) == len(pool.class_names):
        raise ConfigError("population.victim_classes: the victim cannot hold every class; leave some to the others")
    table = _listed(pool.images, labels)
    conflicting = in_two_classes(table)
    if population.partition == "folders":
        check_holders(pool, population)
        conflicting = conflicting | _at_several(table, pool.holders)
    table["part"] = _parts(table, conflicting, split.vault, split.reserve, seed if parts is None else parts)
    _check_parts(table, pool.class_names)
    table["client"] = NOBODY
    train = table["part"] == "train"
    exclusive = table["label"].isin(population.victim_classes)
    if population.partition == "folders":
        table.loc[train, "client"] = pool.holders[train]
    else:
        table.loc[train & exclusive, "client"] = population.victim
        shared = table.index[train & ~exclusive]
        table.loc[shared, "client"] = spread(table.loc[shared, "label"].to_numpy(), population, seed)
    if population.overlap:
        holder = table["client"].where(train & ~exclusive, NOBODY).to_numpy(np.int64)
        table["borrowers"] = [row.tobytes() for row in np.packbits(borrowed(holder, population, seed), axis=1)]
    # The pathological scheme deals whole classes and may leave some to nobody.
    table.loc[train & (table["client"] == NOBODY), "part"] = "unused"
    # A duplicate follows its first copy. (Copies under two labels would otherwise cross from client to vault.)
    first = table.drop_duplicates("sha256").set_index("sha256")
    table["part"] = table["sha256"].map(first["part"])
    for column in table.columns.intersection(["client", "borrowers"]):
        table[column] = table["sha256"].map(first[column])
    without = sorted(set(range(population.clients)) - set(table["client"])) if population.partition == "folders" else []
    if without:
        names = ", ".join(pool.client_names[client] for client in without[:5])
        raise ConfigError(f"clients without a training image after the split: {names}; take them out or lower [split]")
    return table


def manifest_of_model(
    images: NDArray[np.uint8], labels: NDArray[np.int64], trained: NDArray[np.bool_], split: Split, seed: int
) -> pd.DataFrame:
    """Divide the images with which one model is audited; client 0 holds those of ``train``.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        trained: bool [N], whether the model was trained on an image; these come first.
        split: how the images of every class are divided where all are ``trained``. Otherwise those are ``train``, and
            the others vault and reserve in its proportion.

    Returns:
        As ``make_split``, but one row per different image.
    """
    table = _listed(images, labels)
    conflicting = in_two_classes(table)
    kept = ~table["sha256"].duplicated().to_numpy() | conflicting
    table, conflicting, known = table[kept].reset_index(drop=True), conflicting[kept], trained[kept]
    if trained.all():
        table["part"] = _parts(table, conflicting, split.vault, split.reserve, seed)
    else:
        vault = split.vault / (split.vault + split.reserve)
        table["part"] = _parts(table, conflicting | known, vault, 1 - vault, seed)
        table.loc[known & ~conflicting, "part"] = "train"
    table["client"] = np.where(table["part"] == "train", 0, NOBODY)
    return table


def _listed(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": np.arange(len(labels)),
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "label": labels,
        }
    )


def in_two_classes(manifest: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows show an image that stands under another class, too: bool [N]."""
    pairs = manifest[["sha256", "label"]].drop_duplicates()
    twice = pairs.loc[pairs["sha256"].duplicated(keep=False), "sha256"]
    return manifest["sha256"].isin(twice).to_numpy(np.bool_)


def _at_several(table: pd.DataFrame, holders: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows show an image that lies in the folders of several clients: bool [N]."""
    clients = pd.Series(holders).groupby(table["sha256"].to_numpy()).nunique()
    return table["sha256"].map(clients).gt(1).to_numpy(np.bool_)


def remarks(manifest: pd.DataFrame, class_names: tuple[str, ...]) -> list[str]:
    """Return in words what of the private images takes no part, and why; nothing when all do."""
    conflicting = in_two_classes(manifest)
    lines = []
    if conflicting.any():
        copies = manifest.loc[conflicting, "sha256"].nunique()
        lines.append(f"{copies} pictures that stand under two classes ({int(conflicting.sum())} files)")
    dealt = set(manifest.loc[manifest["part"] == "train", "label"])
    several = (manifest["part"] == "unused") & ~conflicting & manifest["label"].isin(dealt)
    if several.any():
        copies = manifest.loc[several, "sha256"].nunique()
        lines.append(f"{copies} pictures that lie in the folders of several clients ({int(several.sum())} files)")
    nobodys = [class_names[label] for label in sorted(set(manifest["label"]) - dealt)]
    if nobodys:
        lines.append(f"the training images of {len(nobodys)} classes, dealt to nobody ({', '.join(nobodys[:5])})")
    return lines


def held_by(manifest: pd.DataFrame, client: int) -> NDArray[np.bool_]:
    """Return which rows of the manifest ``client`` holds, its own and borrowed ones: bool [N]."""
    dealt = (manifest["client"] == client).to_numpy(np.bool_)
    if "borrowers" not in manifest:
        return dealt
    packed = np.frombuffer(b"".join(manifest["borrowers"]), np.uint8).reshape(len(manifest), -1)
    return dealt | (packed[:, client // 8] >> (7 - client % 8) & 1).astype(np.bool_)


def held_alone(manifest: pd.DataFrame, client: int, clients: int) -> NDArray[np.bool_]:
    """Return which rows ``client`` holds and none of the other ``clients``: bool [N]."""
    held = held_by(manifest, client)
    if "borrowers" not in manifest:  # every image is at one client
        return held
    others = [held_by(manifest, other) for other in range(clients) if other != client]
    alone: NDArray[np.bool_] = held & ~np.logical_or.reduce(others)
    return alone


def holdings(manifest: pd.DataFrame, clients: int, classes: int) -> NDArray[np.int64]:
    """Return how many images of every class each client holds, int64 [clients, classes]."""
    labels = manifest["label"].to_numpy()
    return np.stack([np.bincount(labels[held_by(manifest, client)], minlength=classes) for client in range(clients)])


def _parts(
    table: pd.DataFrame, left_out: NDArray[np.bool_], vault: float, reserve: float, seed: int
) -> NDArray[np.object_]:
    """Return the part of every image: those left out are unused; of each class's others, the shares say how many."""
    labels = table["label"].to_numpy()
    parts = np.full(len(labels), "train", dtype=object)
    parts[left_out] = "unused"
    for label in np.unique(labels).tolist():
        order = numpy_generator(seed, "split", label).permutation(np.flatnonzero((labels == label) & ~left_out))
        first, last = round(len(order) * vault), round(len(order) * vault) + round(len(order) * reserve)
        parts[order[:first]] = "vault"
        parts[order[first:last]] = "reserve"
    return parts


def _check_parts(table: pd.DataFrame, class_names: tuple[str, ...]) -> None:
    """Refuse a class that has no image in a part, counting a copy where its first one is."""
    counts = table.drop_duplicates("sha256").groupby(["label", "part"]).size()
    problems = []
    for label, name in enumerate(class_names):
        empty = [part for part in ("train", "vault", "reserve") if not counts.get((label, part), 0)]
        if empty:
            images = int((table["label"] == label).sum())
            problems.append(f"{name} ({images} images) has none for {', '.join(empty)}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        twice = table.loc[in_two_classes(table), "sha256"].nunique()
        more += f" ({twice} pictures stand under two classes, and are left out)" if twice else ""
        raise ConfigError(
            f"too few different images for [split]: class {'; class '.join(problems[:5])}{more}. Raise "
            "data.private_limit, change [split], or take these classes out of the source"
        )


def first_lacking(manifest: pd.DataFrame, names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the first class that has no image of some part, with those parts; None: every class has all three."""
    for label, name in enumerate(names):
        have = set(manifest.loc[manifest["label"] == label, "part"])
        lacking = [part for part in ("train", "vault", "reserve") if part not in have]
        if lacking:
            return name, lacking
    return None
