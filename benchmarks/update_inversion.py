"""Where does update inversion stop? Clients x images per client x local steps, ours beside a published-style loop.

    python benchmarks/update_inversion.py [--seeds 2] [--iterations 300] [--out FILE] [--grid | --cells base images ...]

A federation of C clients on MNIST makes one round from fresh weights (LeNet-5 with ReLU, no BatchNorm): everybody takes
tau full-batch SGD steps on n images. The attacker is one of them and knows its own reply. The victim's images are of
the digits 0 to 4, everybody else's of 5 to 9; in the world without the victim theirs are of 5 to 9 too. Both loops
reconstruct at most ``BUDGET`` images for the labels each finds itself; those of the digits 0 to 4 are matched to the
victim's and scored by PSNR. The control is the same loop with the same labels on the world without the victim; random
images are as many of the class that no client holds.

The plain loop is what the breaching framework does for updates, written anew: labels by the signs and sizes of the last
layer's row sums, images in normalised pixels from N(0, 1), the local steps unrolled, 1 - cos, signed gradients for
Adam at .1 with three drops, total variation at .1, one start. Ours is [updates] as it is configured by default, and
with ``steps = "simulate"`` where there are several steps.

Cells are measured in the order of CELLS, one thread; the table goes into docs/update-inversion.md. ``--grid`` measures
ours alone on every combination of GRID instead, and with four clients also on replies rounded as SecAgg+ does.
"""

import argparse
import copy
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from tables import markdown, publish, spread
from torch import Tensor, nn
from torch.func import functional_call

from attacker.settings import Updates
from attacker.updates.update_inversion import (
    LocalTraining,
    as_tensors,
    dealt,
    label_shares,
    others_update,
    reconstruct,
)
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.data import Pool, Request, open_source
from fedinverse.data.source import unit
from fedinverse.models import Classifier, build
from fedinverse.seeds import derive, generator
from fedinverse.shard import Shard
from fedinverse.storage import to_weights, write_json
from strategies.secure_aggregation import SecureAggregation

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "update-inversion.md"
MODEL, WIDTH, RATE, BUDGET = "lenet5", 1.0, 0.01, 8
VICTIMS = (0, 1, 2, 3, 4)
CELLS: dict[str, list[tuple[int, int, int]]] = {
    "base": [(2, 1, 1)],
    "images": [(2, 4, 1), (2, 16, 1), (2, 64, 1)],
    "clients": [(4, 1, 1), (10, 1, 1), (20, 1, 1)],
    "steps": [(2, 1, 4)],
    "both": [(20, 64, 1)],
    "long": [(2, 1, 16)],
}
"""(clients, images per client, local steps) by what is varied."""
GRID = {"clients": (2, 4, 10, 20), "images": (1, 4, 16, 64), "steps": (1, 4, 16)}
SECURE_CLIENTS = 4  # a sum of two is never unmasked
Loop = Callable[["World", Tensor | None, int], tuple[Tensor, Tensor]]
"""(world, labels to use or None, seed) -> (images, labels)."""


@dataclass(frozen=True)
class World:
    """One round of one federation, as its attacker sees it.

    Attributes:
        before: theta; ``after`` theta'.
        update: D, the others' mean update by parameter.
        training: what everybody did.
        shard: the attacker's images.
        held: how many images the others hold.
    """

    before: Classifier
    after: Classifier
    update: dict[str, Tensor]
    training: LocalTraining
    shard: Shard
    held: int


def drawn(pool: Pool, classes: tuple[int, ...], count: int, seed: int, label: str) -> Shard:
    """Return ``count`` images of ``classes``, drawn without replacement."""
    labels = torch.from_numpy(pool.labels.copy())
    rows = torch.isin(labels, torch.tensor(classes)).nonzero().flatten()
    chosen = rows[torch.randperm(len(rows), generator=generator(seed, label))[:count]]
    return Shard(pool.tensor(chosen.numpy()), labels[chosen])


def world(
    pool: Pool, clients: int, images: int, steps: int, seed: int, *, victim: bool, secure: bool = False
) -> tuple[World, Shard]:
    """Return a round, and the victim's images in it; ``secure``: replies are rounded before they are averaged."""
    others = tuple(range(len(VICTIMS), 10))
    shards = [drawn(pool, others, images, seed, f"client {client}") for client in range(clients)]
    private = drawn(pool, VICTIMS, images, seed, "victim")
    if victim:
        shards[0] = private
    before = build(MODEL, 10, WIDTH, seed=derive(seed, "model") % 2**31)
    sent = [trained(before, shard, steps) for shard in shards]
    start, reply = as_tensors(to_weights(before)), as_tensors(to_weights(sent[-1]))
    replies = [as_tensors(to_weights(each)) for each in sent]
    if secure:
        replies = [rounded(each, generator(seed, "rounding", number)) for number, each in enumerate(replies)]
    average = {name: sum((reply[name] for reply in replies), torch.zeros(())) / clients for name in start}
    after = copy.deepcopy(before)
    after.load_state_dict({name: value.float() for name, value in average.items()})
    update = others_update(start, average, [reply], 1 / clients)
    training = LocalTraining(steps, RATE, 0.0, images)
    return World(before, after, update, training, shards[-1], images * (clients - 1)), private


def rounded(reply: dict[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
    """Return ``reply`` as SecAgg+ sums it: stochastically rounded to the steps of its defaults."""
    step = 2 * SecureAggregation().clipping_range / SecureAggregation().quantization_range
    return {
        name: (value / step + torch.rand(value.shape, generator=random)).floor() * step if value.ndim else value
        for name, value in reply.items()
    }


def trained(start: Classifier, shard: Shard, steps: int) -> Classifier:
    """Return the model after ``steps`` full-batch steps on ``shard``."""
    model = copy.deepcopy(start)
    settings = Training(epochs=steps, batch_size=len(shard), lr=RATE, momentum=0.0)
    train(model, shard, settings, make_defence("none", {}, "benchmark"), generator(0, "order"))
    return model


def ours(steps: str, iterations: int) -> Loop:
    """Return ``[updates]`` as a loop."""
    settings = Updates.model_validate({"steps": steps, "iterations": iterations})

    def loop(seen: World, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        if labels is None:
            shares = label_shares(seen.before, seen.after, seen.update, seen.training, seen.shard)
            labels = dealt(shares, min(BUDGET, seen.held))
        random = generator(seed, "start")
        images, _ = reconstruct(copy.deepcopy(seen.before), seen.update, labels, settings, seen.training, random)
        return images, labels

    return loop


def plain(mean_pixel: float, deviation: float, iterations: int, tv: float = 0.1) -> Loop:
    """Return the published-style loop; pixels are normalised by the public images' mean and deviation."""

    def loop(seen: World, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
        network = copy.deepcopy(seen.before).train()
        goal = torch.cat([seen.update[name].float().flatten() for name, _ in network.named_parameters()])
        if labels is None:
            labels = labels_by_sign(seen.update["head.weight"], min(BUDGET, seen.held))
        x = torch.randn(len(labels), *network.input_shape, generator=generator(seed, "plain")).requires_grad_(True)
        low, high = -mean_pixel / deviation, (1 - mean_pixel) / deviation
        adam = torch.optim.Adam([x], 0.1)
        drops = [int(iterations * part) for part in (3 / 8, 5 / 8, 7 / 8)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, drops, 0.1)
        for _ in range(iterations):
            moved = unrolled(network, x * deviation + mean_pixel, labels, seen.training)
            loss = 1 - F.cosine_similarity(moved, goal, dim=0)
            loss = loss + tv * (x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean())
            x.grad = torch.autograd.grad(loss, x)[0].sign()
            adam.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(low, high)
        return x.detach() * deviation + mean_pixel, labels

    return loop


def labels_by_sign(weight: Tensor, count: int) -> Tensor:
    """Return labels: classes whose row of the last layer grew, by how much; then the rest by what is left of it."""
    left = weight.sum(1).double()
    impact = left.clamp_min(0).sum() / count
    labels = left.argsort(descending=True)[: min(count, int((left > 0).sum()))].tolist()
    left[labels] -= impact
    while len(labels) < count:
        label = int(left.argmax())
        labels.append(label)
        left[label] -= impact
    return torch.tensor(sorted(labels))


def unrolled(network: nn.Module, images: Tensor, labels: Tensor, training: LocalTraining) -> Tensor:
    """Return how far the local steps on ``images`` move the weights, flat."""
    start = {name: weight.detach().requires_grad_(True) for name, weight in network.named_parameters()}
    now = dict(start)
    for _ in range(training.steps):
        loss = F.cross_entropy(functional_call(network, now, (images,)), labels)
        steps = torch.autograd.grad(loss, list(now.values()), create_graph=True)
        now = {name: weight - training.rate * step for (name, weight), step in zip(now.items(), steps, strict=True)}
    return torch.cat([(now[name] - weight).flatten() for name, weight in start.items()])


def psnr(images: Tensor, labels: Tensor, private: Shard) -> float | None:
    """Return the mean PSNR of ``images`` of the victim's classes, each matched to one of theirs; None: none."""
    values: list[float] = []
    for label in set(labels.tolist()) & set(private.labels.tolist()):
        mine, real = images[labels == label].flatten(1), unit(private.images[private.labels == label]).flatten(1)
        error = torch.cdist(mine.double(), real.double()).square() / mine.shape[1]
        rows, columns = linear_sum_assignment(error.numpy())
        values += (-10 * error[rows, columns].clamp_min(1e-10).log10()).tolist()
    return mean(values) if values else None


@dataclass(frozen=True)
class Measured:
    """One loop on one cell and seed; PSNR in dB.

    Attributes:
        attack: against the victim's images; ``control``: the same without the victim; ``random``: random
            images of the class.
        labels: share of the labels dealt that the others' images have, with multiplicity.
        seconds: of one reconstruction, on whatever else the machine did.
    """

    attack: float | None
    control: float | None
    random: float | None
    labels: float
    seconds: float


def measure(pool: Pool, cell: tuple[int, int, int], seed: int, loop: Loop, *, secure: bool = False) -> Measured:
    """Run ``loop`` on both worlds of ``cell``."""
    seen, private = world(pool, *cell, seed, victim=True, secure=secure)
    begun = time.process_time()
    images, labels = loop(seen, None, seed)
    seconds = time.process_time() - begun
    without, _ = world(pool, *cell, seed, victim=False, secure=secure)
    beside, _ = loop(without, labels, seed)
    fresh = random_images(pool, labels, private, seed)
    truth = torch.cat([private.labels, *others_labels(pool, cell, seed)]).bincount(minlength=10)
    share = truth.double() / truth.sum() * len(labels)
    overlap = torch.minimum(labels.bincount(minlength=10).double(), share.ceil()).sum() / len(labels)
    scores = [psnr(each, labels, private) for each in (images, beside, fresh)]
    return Measured(*scores, float(overlap), seconds)


def random_images(pool: Pool, labels: Tensor, private: Shard, seed: int) -> Tensor:
    """Return one random image of the class for every label, none of them the victim's."""
    chosen = []
    for number, label in enumerate(labels.tolist()):
        some = drawn(pool, (label,), len(private) + 1, derive(seed, number), "random").images
        of_victim = (some[:, None] == private.images[None]).flatten(2).all(2).any(1)
        chosen.append(some[~of_victim][:1])
    return unit(torch.cat(chosen))


def others_labels(pool: Pool, cell: tuple[int, int, int], seed: int) -> list[Tensor]:
    """Return the labels of the others' images but the victim's."""
    clients, images, _ = cell
    others = tuple(range(len(VICTIMS), 10))
    return [drawn(pool, others, images, seed, f"client {client}").labels for client in range(1, clients - 1)]


def loops(pool: Pool, iterations: int) -> dict[str, Loop]:
    """Return the loops by name."""
    pixels = unit(pool.tensor())
    return {
        "ours": ours("gradient", iterations),
        "ours, simulated": ours("simulate", iterations),
        "plain loop": plain(float(pixels.mean()), float(pixels.std()), iterations),
    }


def row(cell: tuple[int, int, int], name: str, measured: list[Measured]) -> list[str]:
    """Return a line of the table."""

    def shown(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return spread(known, 1, 1) if known else "–"

    leads = [each.attack - each.control for each in measured if each.attack is not None and each.control is not None]
    return [
        *map(str, cell),
        name,
        shown([each.attack for each in measured]),
        shown([each.control for each in measured]),
        shown([each.random for each in measured]),
        f"{mean(leads):+.1f}" if leads else "–",
        f"{100 * mean(each.labels for each in measured):.0f} %",
        f"{mean(each.seconds for each in measured):.1f}",
    ]


def grid(pool: Pool, seeds: int, iterations: int, out: Path | None) -> list[list[str]]:
    """Measure ours on every combination of GRID; return the table's lines."""
    lines, every, loop = [], [], ours("gradient", iterations)
    kinds = [(clients, False) for clients in GRID["clients"]] + [(SECURE_CLIENTS, True)]
    for steps, (clients, secure) in itertools.product(GRID["steps"], kinds):
        lines.append([str(steps), f"{clients}, SecAgg+" if secure else str(clients)])
        for images in GRID["images"]:
            cell = (clients, images, steps)
            cells = [measure(pool, cell, seed, loop, secure=secure) for seed in range(seeds)]
            lines[-1].append(in_the_grid(cells))
            every += [{"cell": cell, "secure": secure, "seed": at, **vars(each)} for at, each in enumerate(cells)]
            if out is not None:
                write_json(out, every)
        print(" | ".join(lines[-1]), flush=True)
    return lines


def in_the_grid(measured: list[Measured]) -> str:
    """Return PSNR of the attack and its leads over random images of the class and over the world without the victim."""
    known = [
        (each.attack, each.attack - each.random, each.attack - each.control)
        for each in measured
        if each.attack is not None and each.random is not None and each.control is not None
    ]
    if not known:
        return "–"
    attack, over_random, over_control = (mean(values) for values in zip(*known, strict=True))
    return f"{attack:.1f} ({over_random:+.1f}, {over_control:+.1f})"


HEADER = ["clients", "images each", "local steps", "loop", "attack", "no victim", "random", "lead", "labels", "s"]


def main() -> None:
    """Measure the cells asked for and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--cells", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--grid", action="store_true", help="ours alone, on every combination, and beside SecAgg+")
    parser.add_argument("--out", type=Path, help="also write every figure to this file")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/update-inversion.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    pool = open_source(Request("mnist", (1, 32, 32), "", 0, 0))
    if chosen.grid:
        lines = grid(pool, chosen.seeds, chosen.iterations, chosen.out)
        if chosen.publish:
            header = ["local steps", "clients", *(f"{images} images each" for images in GRID["images"])]
            publish("update-inversion-grid", markdown(header, lines), DOCUMENT)
        return
    lines, every = [], []
    for cell in (cell for group in chosen.cells for cell in CELLS[group]):
        for name, loop in loops(pool, chosen.iterations).items():
            if name == "ours, simulated" and cell[2] == 1:
                continue  # one step: the same as a gradient
            cells = [measure(pool, cell, seed, loop) for seed in range(chosen.seeds)]
            lines.append(row(cell, name, cells))
            every += [{"cell": list(cell), "loop": name, "seed": seed, **vars(each)} for seed, each in enumerate(cells)]
            print(" | ".join(lines[-1]), flush=True)
            if chosen.out is not None:
                write_json(chosen.out, every)
    if chosen.publish:
        publish("update-inversion", markdown(HEADER, lines), DOCUMENT)


if __name__ == "__main__":
    main()
