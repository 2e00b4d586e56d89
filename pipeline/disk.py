"""What a run will need on disk, reckoned before anything is written."""

from pathlib import Path

from attacker.priors.prior import SAMPLES
from attacker.settings import Attacker
from fedinverse.class_lists import names_numbered
from fedinverse.data import open_source
from fedinverse.disk import free, in_words, used
from fedinverse.errors import ConfigError
from fedinverse.layout import World, is_control
from fedinverse.models import build, spec_of
from fedinverse.run import requests_of
from pipeline.experiment import Experiment, most_rounds, worlds_of
from pipeline.stages.needed import named


def check_disk(experiment: Experiment, path: Path) -> None:
    """Refuse a run that cannot fit.

    Raises:
        ConfigError: checkpoints, captures and reconstructions need more than ``storage.disk_budget``, or than the disk
            has free; the message says how much of what.
        DataError: the private source is absent.
    """
    parts = needed(experiment)
    total = sum(parts.values())
    shares = ", ".join(f"{what} {in_words(size)}" for what, size in parts.items() if size)
    budget = experiment.storage.budget
    if budget is not None and total > budget:
        raise ConfigError(
            f"this run will need about {in_words(total)} ({shares}), more than storage.disk_budget = "
            f"{experiment.storage.disk_budget}; raise it, {_advice(experiment)}"
        )
    left = free(path) + (used(path) if path.exists() else 0)  # a resumed run has some of it already
    if total > left:
        raise ConfigError(
            f"this run will need about {in_words(total)} ({shares}), but the disk of {path} has {in_words(left)} free; "
            f"make room, choose another --out, {_advice(experiment)}"
        )


def _advice(experiment: Experiment) -> str:
    fewer = 'set storage.checkpoints = "needed", ' if experiment.storage.checkpoints == "all" else ""
    return f"{fewer}or lower federation.rounds or model.width"


def needed(experiment: Experiment) -> dict[str, int]:
    """Return the bytes that the large files of a run will take, by what they hold: an upper bound.

    Every model of every world is a checkpoint, unless ``storage.checkpoints`` keeps fewer; every one that a malicious
    client is sent is also a capture (all of them, with Flower's ``fraction_evaluate`` of 1). Reconstructions and
    prior-only samples are float32 images; the samples that teach the evaluators "none of these" are bytes, as many for
    each attack and for the Type-I test.
    """
    shape = spec_of(experiment.model.name).input_shape
    known = open_source(requests_of(experiment.data, shape, experiment.seed)["private"]).class_names
    table = names_numbered(experiment.model_dump(mode="json", include={"population", "attacker"}), known)
    classes, asked = len(known), len(table["attacker"]["classes"])
    population = experiment.population  # with the classes shared or dealt unevenly, any number may be inverted
    victims_alone = population.has_victim and population.partition == "iid"
    wanted = asked or (len(table["population"]["victim_classes"]) if victims_alone else classes)
    network = build(experiment.model.name, classes, experiment.model.width, seed=0)
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    worlds = worlds_of(experiment)
    every = experiment.federation.rounds + 1
    replies = experiment.federation.rounds * len(experiment.population.attackers)  # that the malicious clients keep
    return {
        "checkpoints": sum(_kept(experiment, world) for world in worlds) * size,
        "captures": len(worlds) * (every + replies) * size if experiment.population.malicious else 0,
        "reconstructions": _images(experiment.attacker, experiment, wanted, shape, len(worlds)),
    }


def _kept(experiment: Experiment, world: World) -> int:
    """Return how many of the global models of ``world`` lie on the disk at once, at most."""
    every, attacker = experiment.federation.rounds + 1, experiment.attacker
    if experiment.storage.checkpoints == "all":
        return every
    inverted = sum(named(attacker, number) for number in range(1, every)) if experiment.attacks else 0
    if is_control(world):  # what is due besides is known when the attacker has captured
        inverted = every if attacker.rounds == "new_best" else inverted + 1
    return min(every, 1 + inverted + 2)  # the first; the last, and the next one while it is written


def _images(attacker: Attacker, experiment: Experiment, wanted: int, shape: tuple[int, int, int], worlds: int) -> int:
    targets = (
        most_rounds(attacker.rounds, experiment) * worlds + 2 if experiment.attacks else 0
    )  # and the untrained and the own-shard model
    pixels = shape[0] * shape[1] * shape[2]
    samples = (len(experiment.attacks) + 1) * SAMPLES * pixels if experiment.attacks else 0
    return targets * len(experiment.attacks) * wanted * attacker.restarts * 2 * 4 * pixels + samples
