"""What can be known to fail is found before any work: every check of a run that needs its data, networks or machine.

``load_experiment`` has checked names and values by then. The run directory is prepared, so the images and who holds
them are known: each network takes real images, each defence a step of training, and each attack begins against the
untrained model.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from attacker.attacks.registry import make_attack
from attacker.target import PublicSet, Target
from attacker.worker import labels_of
from auditor.evaluators.embedding import check_vault
from auditor.evaluators.material import check_independent
from auditor.membership import candidates_of
from clients.cohorts import assign
from clients.defences import make_defence
from clients.training import train
from fedinverse.client_data import pooled_shard, shard_of
from fedinverse.data.source import unit
from fedinverse.disk import in_words
from fedinverse.errors import ConfigError, FedInverseError
from fedinverse.layout import WITHOUT_VICTIM, WORLDS, is_run
from fedinverse.machine import device_on
from fedinverse.models import Classifier, build, for_inference
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.split import holdings
from pipeline.disk import check_disk, needed
from pipeline.engines.ray_place import check_ray
from pipeline.experiment import Experiment, most_rounds, resolved
from pipeline.rehearsal import rehearse
from pipeline.stages.invert import asked_classes
from pipeline.stages.updates import rehearsed
from report.console import bars_when_told, console, echo, show_threat_model, table
from report.text import in_time

CLASSES = 4  # an attack is rehearsed on this many of its classes


@dataclass(frozen=True)
class Forecast:
    """What the checks measured on the way.

    Attributes:
        notes: what will be as configured, and is perhaps not as meant.
        seconds: what -> about how long, on this machine, alone; what was not measured is left out.
    """

    notes: list[str]
    seconds: dict[str, float]


def check_before_work(run: Run, experiment: Experiment, steps: int = 1) -> Forecast:
    """Try everything that a later stage would refuse.

    Args:
        run: prepared for ``experiment``; nothing is written into it.
        steps: that each attack takes; from 2 on, their time is measured.

    Raises:
        ConfigError, DataError: names the key and the fix.
    """
    check_ray(experiment.engine)
    for device, key in _devices(experiment):
        device_on(device, f"'{key}':")
    network = run.initial_network()
    _check_images(network, run, "model.name")
    notes, epoch = _check_training(run, experiment)
    seconds = {"federation": epoch * _epochs(experiment)} if experiment.engine.kind != "flower" else {}
    if experiment.attacks:
        _check_evaluator(run, experiment)
        seconds |= _check_attacks(run, experiment, network, steps)
    if experiment.membership is not None:
        asked = experiment.membership
        candidates_of(run, asked.per_class, with_vault=asked.with_vault)  # refuses too few
    if experiment.updates is not None:
        step = rehearsed(run, experiment.updates)
        worlds = len(WORLDS) if experiment.audit.without_victim else 1
        if steps > 1:
            inverted = most_rounds(experiment.updates.rounds, experiment) * worlds
            seconds["update inversion"] = step * experiment.updates.iterations * inverted
    return Forecast(notes, seconds)


def _devices(experiment: Experiment) -> Iterator[tuple[str, str]]:
    if experiment.updates is not None:
        yield experiment.updates.device, "updates.device"
    if experiment.attacks:
        yield experiment.attacker.device, "attacker.device"
        yield str(getattr(experiment.audit, "device", "cpu")), "audit.device"
    if experiment.engine.client_gpus and not experiment.engine.address:
        yield "cuda", "engine.client_gpus"


@torch.inference_mode()
def _check_images(network: Classifier, run: Run, key: str) -> None:
    """Refuse a network that cannot classify the private images."""
    images = unit(part_of(run, "reserve").images[:2])
    try:
        logits = network.eval()(images)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"'{key}': the network cannot take images {tuple(images.shape[1:])} ({reason})") from error
    if logits.shape != (len(images), len(run.class_names)):
        raise ConfigError(
            f"'{key}': the network gives {tuple(logits.shape)} for {len(images)} images of {len(run.class_names)} "
            "classes; its last layer must have one output per class"
        )


def _check_training(run: Run, experiment: Experiment) -> tuple[list[str], float]:
    """Try a step of every defence; return notes, and the seconds that the clients' local epochs take in all."""
    population, training = run.population, experiment.training
    held = holdings(run.split, population.clients, len(run.class_names)).sum(1)
    assigned = assign(experiment.cohorts, population.clients, experiment.seed, population.attackers)
    defences: dict[str, int] = {}
    for client in np.argsort(-held, kind="stable").tolist():  # of every defence, the client with most images
        if held[client]:
            defences.setdefault(repr(assigned[client]), client)
    per_image = 0.0
    for client in defences.values():
        shard = shard_of(run, client, "with_victim")
        batch = Shard(shard.images[: training.batch_size], shard.labels[: training.batch_size])
        try:
            seconds = _step(run, experiment, batch, assigned[client])
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"client {client} cannot train with training.batch_size = {training.batch_size} and defence "
                f"'{assigned[client][0]}': {str(error).splitlines()[0]}"
            ) from error
        per_image = max(per_image, seconds / len(batch))
    idle = [client for client, images in enumerate(held.tolist()) if not images]
    notes = [f"clients {_listed(idle)} hold no image and will fail in every round"] if idle else []
    victim = population.victim
    controlled = experiment.audit.without_victim and population.victim_classes and held[victim]
    if controlled and not len(shard_of(run, victim, WITHOUT_VICTIM)):
        notes.append(f"client {victim}, the victim, holds their classes alone: without them it fails in every round")
    return notes, per_image * float(held.sum())


def _listed(clients: list[int]) -> str:
    return ", ".join(map(str, clients[:8])) + (" …" if len(clients) > 8 else "")


def _step(run: Run, experiment: Experiment, shard: Shard, defence: tuple[str, dict[str, Any]]) -> float:
    """Train an epoch on ``shard``; return the seconds of the second time, the first warms up."""
    network, random = run.initial_network(), generator(run.seed, "before work")
    once = experiment.training.model_copy(update={"epochs": 1})
    make_defence(*defence, "config").try_on(network, unit(shard.images), shard.labels)
    start = 0.0
    for _ in range(2):
        start = time.perf_counter()
        train(network, shard, once, make_defence(*defence, "config"), random)
    return time.perf_counter() - start


def _epochs(experiment: Experiment) -> float:
    """Return how many times each image is trained on, divided by the processes that do it side by side."""
    federation, engine = experiment.federation, experiment.engine
    worlds = len(WORLDS) if experiment.audit.without_victim and experiment.asks else 1
    at_once = (engine.actors or torch.get_num_threads()) if engine.kind == "ray" else 1
    return federation.rounds * federation.fraction_train * experiment.training.epochs * worlds / at_once


def _check_evaluator(run: Run, experiment: Experiment) -> None:
    settings = experiment.audit.evaluator
    check_independent(run, settings)
    network = build(settings.model, len(run.class_names), settings.width, seed=0)
    _check_images(network, run, "audit.evaluator.model")
    vault = int((run.split["part"] == "vault").sum())
    batch = min(vault, settings.batch_size)
    check_vault(vault, *network.input_shape)
    if vault < 2 * len(run.class_names):
        raise ConfigError(
            f"the vault has {vault} images of {len(run.class_names)} classes, too few for an evaluator; raise "
            "split.vault or data.private_limit"
        )
    images = part_of(run, "vault").images[:batch]
    try:
        network.train()(unit(images))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"'audit.evaluator' cannot train on {batch} images at once: {error}") from error


def _check_attacks(run: Run, experiment: Experiment, network: Classifier, steps: int) -> dict[str, float]:
    """Begin every attack; return what -> seconds."""
    settings, classes = experiment.attacker, len(run.class_names)
    beyond = [label for label in settings.classes if label >= classes]
    if beyond:
        raise ConfigError(f"'attacker.classes' names {beyond}, but the classes run from 0 to {classes - 1}")
    if not run.victim_classes:
        raise ConfigError(
            f"population.victim {run.population.victim} holds no image, so that there is nobody to audit; choose "
            "another client, another population.partition, or name classes in population.victim_classes"
        )
    settings = settings.model_copy(update={"classes": asked_classes(run)})
    labels = labels_of(settings, classes, pooled_shard(run))
    if not len(labels):
        raise ConfigError(
            "the attacker holds images of every class, so that there is none to invert; name some in 'attacker.classes'"
        )
    if not set(run.victim_classes) & set(labels.tolist()):
        raise ConfigError(
            "none of the victim's classes would be inverted, and the verdict speaks of these alone: name them in "
            "'attacker.classes', or leave it empty"
        )
    some = labels[torch.isin(labels, labels.unique()[:CLASSES])]
    images = PublicSet.of(run.pools["public"])
    device = torch.device(settings.device)
    target = Target(for_inference(network, device), "0" * 64, 0, device)
    captured = most_rounds(settings.rounds, experiment) * (len(WORLDS) if experiment.audit.without_victim else 1)
    targets = (captured + 2) / (settings.processes or torch.get_num_threads())
    seconds: dict[str, float] = {}
    for label, asked in experiment.attacks.items():
        attack = make_attack(asked, f"attacks.{label}", "config")
        with TemporaryDirectory() as scratch:
            try:
                rates = rehearse(attack, target, images, some, run.seed, Path(scratch), steps)
            except FedInverseError as error:
                raise ConfigError(f"'attacks.{label}': {error}") from error
        trained = attack.has_prior(images, run.seed)
        for what, (step, total) in rates.items():
            if "prior" in what and trained:
                continue
            if "prior" in what:
                times = targets if attack.needs.target_at_prior else 1
                seconds[f"{label}: {what}"] = step * attack.settings.prior.steps * times
            else:
                seconds[f"{label}: {what}"] = step * total * targets * len(labels) / len(some)
    return seconds


STEPS = 3  # of every attack: the first warms up, the others are timed


def show_plan(experiment: Experiment) -> None:
    """Check ``experiment`` as a run would, and print who takes part, what to know, disk and time.

    Raises:
        ConfigError: names the key and the fix.
        DataError: a source is absent.
    """
    path = (Path(experiment.out) / experiment.name).resolve()
    check_disk(experiment, path)
    with TemporaryDirectory() as scratch:
        with bars_when_told() as progress:
            run = prepare(Path(scratch) / experiment.name, resolved(experiment), progress=progress)
        forecast = check_before_work(run, experiment, STEPS)
        show_threat_model(run)
    for note in forecast.notes:
        echo(f"note: {note}")
    table("Disk, at most", ["", "size"], [[what, in_words(size)] for what, size in needed(experiment).items() if size])
    rows = [[what, in_time(seconds)] for what, seconds in forecast.seconds.items()]
    table("Time, about, from a few steps on this machine as busy as it is now", ["", "time"], rows)
    if is_run(path):
        echo(f"{path} exists: a run would need --resume or another name")
    console.print("Nothing was written. All checks passed.")
