"""The control target of arm B3: a model the attacker could have trained alone, on its own shard, for as many epochs."""

from pathlib import Path

from clients.defences import make_defence
from clients.training import Training, train
from fedinverse.client_data import shard_of
from fedinverse.run import Run
from fedinverse.seeds import generator
from fedinverse.storage import save_weights, to_weights
from server.settings import Federation


def own_shard_model(run: Run) -> Path:
    """Return the weights file, training the model on first use from the federation's own initial weights."""
    path = run.files.attacker.own_shard_model
    if path.exists():
        return path
    classes, rounds = len(run.class_names), run.section("federation", Federation).rounds
    network = run.initial_network()
    shard = shard_of(run, run.population.attackers[0], "with_victim")
    alone = make_defence("none", {}, "own shard")
    for number in range(rounds):
        random = generator(run.seed, "own shard", number)
        train(network, shard, run.section("training", Training), alone, random)
    about: dict[str, str | int | float] = {
        "model-round": rounds,
        "model": run.model.name,
        "width": run.model.width,
        "classes": classes,
    }
    save_weights(path, to_weights(network), about)
    return path
