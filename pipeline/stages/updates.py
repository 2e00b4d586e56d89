"""What was in somebody's last batches? The attack on the updates between captures, its control, and the answer.

The same rounds of the first world without the victim are inverted for the labels that were found with the victim.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from attacker.settings import Updates
from attacker.updates.pairs import Pair, pairs
from attacker.updates.store import InvertedUpdate, Seat, invert_update, place
from attacker.updates.update_inversion import LocalTraining, label_shares, reconstruct
from auditor.grids import save_grid
from auditor.marks import marks_of_question
from auditor.questions import Answer, answer_of, write_answer
from auditor.updates import (
    ARMS,
    ATTACK,
    QUESTION,
    VERSION,
    WITHOUT,
    Cells,
    UpdateExhibit,
    answer_to,
    compared,
    read_update,
)
from clients.settings import Training
from fedinverse.client_data import pooled_shard, shard_of
from fedinverse.config import parse
from fedinverse.errors import ConfigError, StageError
from fedinverse.layout import WITH_VICTIM, spools_of
from fedinverse.progress import Progress
from fedinverse.run import Run
from fedinverse.seeds import derive, generator, threads
from fedinverse.shard import Shard
from fedinverse.storage import content_sha256
from fedinverse.tables import Table
from report.console import Bars, console, progress_bar
from server.settings import Federation
from strategies.choice import averages_plainly

PICTURED = 12  # images of an arm in the picture
UNKNOWN = (
    "how the others train is not known here: give updates.local_steps, the steps they are assumed to take in a round, "
    "and updates.rate, their learning rate"
)


def updates(run: Run) -> Answer:
    """Answer the question for ``run``, unless that is done; write images, picture and answer.

    Raises:
        StageError: too few captures; says which there are.
        IntegrityError: captures that do not belong together.
        ConfigError: what the others do in a round is not known.
    """
    settings = run.section("updates", Updates)
    seat = seat_of_run(run, settings)
    store = run.files.attacker.updates
    chosen = pairs(spools_of(run.files.attacker, WITH_VICTIM), settings)
    rounds = ", ".join(str(pair.round) for pair in chosen)
    console.print(f"[b]Update inversion[/b]: {settings.images} images of the update of round {rounds}", soft_wrap=True)
    with threads(1), progress_bar() as bar:
        say = Bars(bar)
        inverted = [_inverted(store, pair, seat, settings, None, say) for pair in chosen]
        control, lacking = _control(run, chosen, inverted, seat, settings, say)
    judged = [(ATTACK, each) for each in inverted] + [(WITHOUT, each) for each in control]
    notes = dict.fromkeys(note for _, each in judged for note in each.about.notes)
    marks = (*marks_of_question(run, QUESTION), *notes, *lacking)
    inputs = content_sha256([VERSION, [[arm, each.path.name] for arm, each in judged], marks])
    before = answer_of(run, QUESTION)
    if before.inputs == inputs and run.files.auditor.updates_picture.exists():
        return before
    exhibits = [read_update(each.images, arm, each.about.round) for arm, each in judged]
    cells = compared(run, exhibits)
    answer = answer_to(run, exhibits, cells, marks, inputs)
    _draw(run, cells, exhibits)
    write_answer(run, answer)
    return answer


def read_of_updates(run: Run) -> set[Path]:
    """Return the captures and replies that the question reads; none, if it is not asked or has none."""
    if not QUESTION.asked(run.table):
        return set()
    settings = run.section("updates", Updates)
    try:
        chosen = [
            pair
            for world in (WITH_VICTIM, *run.control_worlds[:1])
            for pair in pairs(spools_of(run.files.attacker, world), settings)
        ]
    except StageError:
        return set()
    return {path for pair in chosen for path in (pair.before, pair.after, *pair.replies)}


def rehearsed(run: Run, settings: Updates) -> float:
    """Try the attack on the untrained model; return the seconds of one of its steps.

    Raises:
        ConfigError: this network's updates cannot be inverted, or what the others do in a round is not known.
    """
    seat, network = seat_of_run(run, settings), run.initial_network()
    update = {name: torch.ones_like(weight, dtype=torch.float64) for name, weight in network.named_parameters()}
    labels, once = torch.zeros(settings.images, dtype=torch.int64), settings.model_copy(update={"iterations": 1})
    begun = 0.0
    try:
        label_shares(network, network, update, seat.training, seat.shard)
        network.to(settings.device)
        for _ in range(2):  # the first warms up
            begun = time.perf_counter()
            reconstruct(network, update, labels, once, seat.training, generator(0, "rehearsal"))
    except (StageError, RuntimeError, ValueError) as error:
        raise ConfigError(f"'updates': {str(error).splitlines()[0]}") from error
    return time.perf_counter() - begun


def _inverted(
    store: Path, pair: Pair, seat: Seat, settings: Updates, labels: torch.Tensor | None, say: Progress
) -> InvertedUpdate:
    where = place(store, pair, seat, settings, labels)
    if not where.done:
        invert_update(pair, seat, settings, where, labels, say)
    return where


def _control(
    run: Run, chosen: list[Pair], inverted: list[InvertedUpdate], seat: Seat, settings: Updates, say: Progress
) -> tuple[list[InvertedUpdate], list[str]]:
    """Return the same inversions without the victim, one per round, or why there are none."""
    if not run.control_worlds:
        return [], ["no federation without the victim was run (audit.without_victim)"]
    world, rounds = run.control_worlds[0], tuple(pair.round for pair in chosen)
    try:
        beside = pairs(spools_of(run.files.attacker, world), settings.model_copy(update={"rounds": rounds}))
    except StageError as error:
        return [], [f"no control without the victim: {error}"]
    store = run.files.attacker.updates
    return [_inverted(store, pair, seat, settings, e.labels, say) for pair, e in zip(beside, inverted, strict=True)], []


def seat_of_run(run: Run, settings: Updates) -> Seat:
    """Return what the attacker of ``run`` knows and assumes.

    Raises:
        ConfigError: how the others train is not known, or it is not by SGD.
    """
    shard, largest = pooled_shard(run), len(shard_of(run, run.population.attackers[0], WITH_VICTIM))
    announced = run.table.get("training") if "app" not in run.table else None
    federation = run.section("federation", Federation) if announced is not None else None
    clients = None if federation is None else max(1, round(run.population.clients * federation.fraction_train))
    seat = seat_of(shard, settings, announced, largest, clients, derive(run.seed, "updates"), str(run.files.config))
    if federation is not None and not averages_plainly(federation.strategy):
        mark = (
            f"the server's strategy '{federation.strategy}' is no plain average: the difference of two models is not "
        )
        return replace(seat, assumed=(*seat.assumed, f"{mark}the mean update"))
    return seat


def seat_of(
    shard: Shard, settings: Updates, announced: Table | None, images: int, clients: int | None, seed: int, origin: str
) -> Seat:
    """Return what an attacker knows and assumes.

    Args:
        settings: of the attack; what they say goes before what was announced.
        announced: the section ``[training]`` that every client is sent; None: it is not known.
        images: of its own shard, by which the others' steps are guessed.
        clients: that train in a round; None: not known.
        origin: where ``announced`` comes from, for messages.

    Raises:
        ConfigError: local steps, rate or share are not known, or training is not by SGD.
    """
    training = None if announced is None else parse(Training, announced, "training", origin)
    if training is not None and training.optimizer != "sgd":
        raise ConfigError(
            f"{origin}: [updates] reads the difference of two models as a mean gradient, but training.optimizer is "
            f"'{training.optimizer}', whose steps are none; use sgd, or take [updates] out"
        )
    if training is None and (settings.local_steps is None or settings.rate is None):
        raise ConfigError(UNKNOWN)
    assumed = []
    steps, batch = settings.local_steps, training.batch_size if training else settings.images
    if steps is None:
        assert training is not None
        steps = training.epochs * max(1, math.ceil(images / batch))
        assumed.append(
            f"the others are assumed to take {steps} local steps in a round, as the attacker does with its {images} "
            "images (updates.local_steps)"
        )
    if settings.share is None and clients is None:
        raise ConfigError("how much an own reply weighs in the average is not known here: give updates.share, 0 to 1")
    share = settings.share if settings.share is not None else 1 / max(clients or 1, 1)
    if settings.share is None and clients != 1:
        assumed.append(f"an own reply is assumed to weigh 1 / {clients} in the average (updates.share)")
    rate = settings.rate if settings.rate is not None else training.lr if training else 0.0
    momentum = settings.momentum if settings.momentum is not None else training.momentum if training else 0.0
    return Seat(shard, LocalTraining(steps, rate, momentum, batch), share, seed, tuple(assumed))


def _draw(run: Run, cells: Cells, exhibits: list[UpdateExhibit]) -> None:
    """Write the picture of the last round: a row per arm, reconstructions beside the private images they go with."""
    last = max(each.round for each in exhibits)
    rows = []
    for arm in ARMS:
        mine = [cell for (number, _), cell in sorted(cells[arm].items()) if number == last]
        if mine:
            images, real = (
                torch.cat([getattr(cell, name) for cell in mine])[:PICTURED] for name in ("reconstructed", "real")
            )
            rows.append((images, real))
    if not rows:  # nothing is held against the victim's: the attacker's images alone
        images = exhibits[0].images[:PICTURED]
        rows.append((images, torch.ones_like(images)))
    save_grid(run.files.auditor.updates_picture, rows)
