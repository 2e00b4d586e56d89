"""Who holds which of the images that are not the victim's alone: flwr-datasets' partitioners, run once and stored."""

import numpy as np
from numpy.typing import NDArray

from fedinverse.config import Population
from fedinverse.errors import ConfigError
from fedinverse.seeds import derive


def spread(labels: NDArray[np.int64], population: Population, seed: int) -> NDArray[np.int64]:
    """Assign every image to a client.

    Args:
        labels: int64 [N].
        population: number of clients and scheme.
        seed: run seed.

    Returns:
        int64 [N]: the client of each image.

    Raises:
        ConfigError: the scheme cannot serve that many clients with these images.
    """
    from datasets import Dataset
    from flwr_datasets import partitioner as flower

    clients, chosen = population.clients, population.partition
    bits = derive(seed, "partition") % 2**31
    if len(labels) < clients:
        raise ConfigError(f"population.clients is {clients} but only {len(labels)} images are left for them; lower it")
    partitioner: flower.Partitioner
    if chosen == "iid":
        partitioner = flower.IidPartitioner(clients)
    elif chosen == "dirichlet":
        partitioner = flower.DirichletPartitioner(clients, "label", population.alpha, min_partition_size=1, seed=bits)
    elif chosen == "shards":
        partitioner = flower.ShardPartitioner(
            clients, "label", num_shards_per_partition=population.classes_per_client, seed=bits
        )
    else:
        partitioner = flower.PathologicalPartitioner(
            clients, "label", population.classes_per_client, class_assignment_mode="random", seed=bits
        )
    # IidPartitioner cuts in order, and sources are often sorted by class: shuffle first.
    order = np.random.default_rng(bits).permutation(len(labels))
    partitioner.dataset = Dataset.from_dict({"row": order, "label": labels[order]})
    holder = np.full(len(labels), -1, np.int64)
    try:
        for client in range(clients):
            holder[np.asarray(partitioner.load_partition(client)["row"], np.int64)] = client
    except ValueError as error:
        raise ConfigError(f"population.partition '{chosen}' does not work with {clients} clients: {error}") from error
    return holder
