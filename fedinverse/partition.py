"""Who holds which of the images that are not the victim's alone: run once and stored in the split manifest.

dirichlet, shards and pathological are flwr-datasets' partitioners; unequal and identity, which it has not, are here,
and so is iid, the default, which is one line: importing flwr-datasets takes two seconds.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedinverse.config import Population
from fedinverse.data import Pool
from fedinverse.errors import ConfigError
from fedinverse.seeds import derive

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

# The original's unequal non-IID: 12 shards per client on average (1,200 of 50 images for 100 clients), 1 to 30 each.
SHARDS_PER_CLIENT = 12
MOST_SHARDS = 30


def spread(labels: NDArray[np.int64], population: Population, seed: int) -> NDArray[np.int64]:
    """Assign every image to a client.

    Args:
        labels: int64 [N].

    Returns:
        int64 [N]: the client of each image; -1 where the scheme deals it to nobody.

    Raises:
        ConfigError: the scheme cannot serve that many clients with these images.
    """
    clients, chosen = population.clients, population.partition
    bits = derive(seed, "partition") % 2**31
    if len(labels) < clients:
        raise ConfigError(f"population.clients is {clients} but only {len(labels)} images are left for them; lower it")
    if chosen == "iid":
        return _evenly(len(labels), clients, bits)
    if chosen == "unequal":
        return _unequal(labels, clients, bits)
    if chosen == "identity":
        return _by_identity(labels, clients)
    return _dealt(labels, _partitioner(population, bits), population, bits)


def check_holders(pool: Pool, population: Population) -> None:
    """Refuse clients of the private source that are not those of the configuration.

    Raises:
        ConfigError: the source knows no clients, other ones, or a victim's class is at another client too; names them.
    """
    names = pool.client_names
    if not names:
        raise ConfigError(
            "population.partition 'folders' takes the clients from the private source, and this one knows none; set "
            'data.private = "clientfolders" or choose another partition'
        )
    if population.overlap:
        raise ConfigError("population.overlap lends images, which partition 'folders' does not; make it 0")
    if len(names) != population.clients:
        raise ConfigError(
            f"population.clients is {population.clients}, but the private source has {len(names)} clients "
            f"({', '.join(names[:10])}); make it {len(names)}"
        )
    for label in population.victim_classes:
        others = sorted({*pool.holders[pool.labels == label].tolist()} - {population.victim})
        if others:
            only = _alone(pool, population.victim)
            raise ConfigError(
                f"population.victim_classes: {pool.class_names[label]} is not the victim's alone, "
                f"{', '.join(names[other] for other in others[:5])} hold pictures of it too; only "
                f"{names[population.victim]} holds: {', '.join(only) or 'none'}"
            )


def _alone(pool: Pool, client: int) -> list[str]:
    """Return the names of the classes that ``client`` alone holds."""
    labels, holders = np.asarray(pool.labels), pool.holders
    mine = np.setdiff1d(np.unique(labels[holders == client]), np.unique(labels[holders != client]))
    return [pool.class_names[label] for label in mine]


def borrowed(holder: NDArray[np.int64], population: Population, seed: int) -> NDArray[np.bool_]:
    """Choose what every client holds of the others' images: of each other client's a share ``population.overlap``.

    So the original enlarged CelebA's shards, by .8 unless told otherwise.

    Args:
        holder: int64 [N], the client of each image.

    Returns:
        bool [N, clients]: True where the client holds an image of another one.
    """
    random = np.random.default_rng(derive(seed, "overlap"))
    copies = np.zeros((len(holder), population.clients), np.bool_)
    for owner in range(population.clients):
        images = np.flatnonzero(holder == owner)
        for borrower in range(population.clients):
            if borrower != owner:
                copies[random.permutation(images)[: int(len(images) * population.overlap)], borrower] = True
    return copies


def _partitioner(population: Population, bits: int) -> "Partitioner":
    from flwr_datasets import partitioner as flower

    clients, classes = population.clients, population.classes_per_client
    if population.partition == "dirichlet":
        return flower.DirichletPartitioner(clients, "label", population.alpha, min_partition_size=1, seed=bits)
    if population.partition == "shards":
        return flower.ShardPartitioner(clients, "label", num_shards_per_partition=classes, seed=bits)
    return flower.PathologicalPartitioner(clients, "label", classes, class_assignment_mode="random", seed=bits)


def _dealt(
    labels: NDArray[np.int64], partitioner: "Partitioner", population: Population, bits: int
) -> NDArray[np.int64]:
    from datasets import Dataset

    shards = population.clients * population.classes_per_client
    if population.partition == "shards" and len(labels) < shards:  # flwr-datasets divides by zero
        raise ConfigError(
            f"population.partition 'shards' deals {shards} shards but only {len(labels)} images are left; "
            "lower population.clients or population.classes_per_client"
        )
    # Some cut in order, and sources are often sorted by class: shuffle first.
    order = np.random.default_rng(bits).permutation(len(labels))
    partitioner.dataset = Dataset.from_dict({"row": order, "label": labels[order]})
    holder = np.full(len(labels), -1, np.int64)
    try:
        for client in range(population.clients):
            holder[np.asarray(partitioner.load_partition(client)["row"], np.int64)] = client
    except ValueError as error:
        raise ConfigError(
            f"population.partition '{population.partition}' does not work with {population.clients} clients: {error}"
        ) from error
    return holder


def _evenly(images: int, clients: int, bits: int) -> NDArray[np.int64]:
    """Deal the shuffled images in equal parts, as flwr-datasets' IidPartitioner does."""
    holder = np.empty(images, np.int64)
    for client, rows in enumerate(np.array_split(np.random.default_rng(bits).permutation(images), clients)):
        holder[rows] = client
    return holder


def _unequal(labels: NDArray[np.int64], clients: int, bits: int) -> NDArray[np.int64]:
    """Cut the images, sorted by class, into small shards; deal a random number of them, 1 to 30, to each client."""
    shards = SHARDS_PER_CLIENT * clients
    if len(labels) < shards:
        raise ConfigError(
            f"population.partition 'unequal' deals {shards} shards but only {len(labels)} images are left; "
            "lower population.clients"
        )
    random = np.random.default_rng(bits)
    wanted = random.integers(1, MOST_SHARDS + 1, clients).cumsum()
    # In the drawn proportions, together every shard, nobody without one.
    counts = 1 + np.diff(np.round(wanted / wanted[-1] * (shards - clients)).astype(np.int64), prepend=0)
    client_of_shard = random.permutation(np.repeat(np.arange(clients), counts))
    mixed = random.permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    holder = np.empty(len(labels), np.int64)
    holder[by_class] = client_of_shard[np.arange(len(labels)) * shards // len(labels)]
    return holder


def _by_identity(labels: NDArray[np.int64], clients: int) -> NDArray[np.int64]:
    """Give every client one block of consecutive classes, all images of each."""
    classes, rank = np.unique(labels, return_inverse=True)
    if len(classes) < clients:
        raise ConfigError(
            f"population.partition 'identity' gives every client classes of its own, but only {len(classes)} are left "
            f"for {clients} clients; lower population.clients"
        )
    return (rank * clients // len(classes)).astype(np.int64)
