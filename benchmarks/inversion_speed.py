"""An inversion step: ours against a plain loop in the published style, interleaved, one thread, CPU time.

    python benchmarks/inversion_speed.py [--sizes 32 64] [--turns 3] [--json PATH] [--publish]

The plain loop is written from the papers' formulas the way their public code runs: NCHW, BatchNorm unfolded, the
weights of G, D and T collect gradients, one block of 60 identities, losses read with ``.item()`` every step. Ours is
``Attack.invert`` as it is, in one batch of 300 at 32 pixels; at 64 pixels, where a batch fills the caches anyway, also
of 60. Published widths: mcnn at 32 pixels, vgg16 at 64; the same networks in both loops. The published K+1
discriminator also has minibatch discrimination, which is off by default here (inert): KED-MI is timed without it in
both loops and, marked ``+ MD``, with it in both.

Printed: milliseconds per image and step, ratios to the plain loop, and the share of the measured fp32 convolution peak
that ours reaches by the FLOPs it needs (multiplications of forward and backward to the latent). bf16 is timed
without its check, which a real target needs and these untrained weights do not.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import Ticks, Turn, asked, convolution_peak, medians_apart
from plain_networks import plain_network
from tables import markdown, measured_with, publish
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attacker.acceleration import in_bf16
from attacker.attacks.registry import make_attack
from attacker.priors.dcgan import LATENT, Critic, Generator
from attacker.priors.kplus1 import Discriminator, MinibatchDiscrimination, Realness
from attacker.priors.prior import Prior
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference
from fedinverse.storage import write_json

CPU = torch.device("cpu")
BLOCK = 60  # identities of the published loops
NETS = {32: ("mcnn", 300, 300), 64: ("vgg16", 1000, 60)}  # target, classes, our batch
STEPS = 3  # of a turn
CASES = {"GMI": ("gmi", False), "KED-MI": ("kedmi", False), "KED-MI + MD": ("kedmi", True)}


class Broadcast(MinibatchDiscrimination):
    """Minibatch discrimination by broadcasting all pairs, as published."""

    def forward(self, features: Tensor) -> Tensor:
        """Return [N, 64] of ``features`` [N, F]."""
        rows = (features @ self.project).view(-1, self.kernels, self.dimensions)
        return (rows[None] - rows[:, None]).abs().sum(3).neg().exp().sum(0) - 1


class Case:
    """G, D and T of one attack at one size, untrained; ``compare``: D has minibatch discrimination."""

    def __init__(self, attack: str, size: int, compare: bool, device: torch.device = CPU) -> None:
        name, classes, self.batch = NETS[size]
        self.attack, self.device = attack, device
        torch.manual_seed(0)
        self.T = build(name, classes, seed=0).eval()
        shape = self.T.input_shape
        self.G = Generator(shape).eval()
        self.D: nn.Module = Critic(shape) if attack == "gmi" else Realness(Discriminator(shape, classes, 1.0, compare))
        self.target = Target(for_inference(self.T, device), "untrained", 0, device)
        G, D = for_inference(self.G, device), for_inference(self.D, device)
        self.prior = Prior("untrained", G, D, LATENT, shape, "untrained")
        self.public = PublicSet(torch.zeros(1, *shape, dtype=torch.uint8), "none")

    def ours(self, lowered: bool) -> Turn:
        """Return a turn of our loop."""
        attack = make_attack({"kind": self.attack, "iterations": STEPS + 1}, "attacks.speed", "benchmark")
        labels, target, prior = torch.arange(self.batch), self.target, self.prior
        if lowered:
            assert prior.critic is not None
            target = replace(target, model=in_bf16(target.model, "cpu"))
            prior = replace(prior, generator=in_bf16(prior.generator, "cpu"), critic=in_bf16(prior.critic, "cpu"))

        def turn() -> list[float]:
            ticks = Ticks("optimising")  # as ``Case.steps`` calls it
            attack.invert(target, prior, self.public, labels, torch.Generator().manual_seed(0), ticks)
            return [seconds / len(labels) for seconds in ticks.steps]

        return turn

    def plain(self) -> Turn:
        """Return a turn of the plain loop; seconds per image and step."""
        steps = self.plain_steps()

        def turn() -> list[float]:
            taken = []
            for _ in range(STEPS):
                start = time.process_time()
                next(steps)
                taken.append((time.process_time() - start) / BLOCK)
            return taken

        return turn

    def plain_steps(self) -> Iterator[None]:
        """Return the plain loop, step by step; the networks become plain."""
        for module in self.D.modules():
            if isinstance(module, Discriminator) and module.compare is not None:
                module.compare = Broadcast(len(module.compare.project))
        for net in (self.T, self.G, self.D):
            plain_network(net).to(self.device).eval().requires_grad_(True)
        return self._plain_gmi() if self.attack == "gmi" else self._plain_kedmi()

    def _plain_gmi(self) -> Iterator[None]:
        labels = torch.arange(BLOCK, device=self.device) % self.T.classes
        z, velocity = torch.randn(BLOCK, LATENT, device=self.device), torch.zeros(BLOCK, LATENT, device=self.device)
        while True:
            z.requires_grad_(True)
            images = self.G(z).contiguous()
            prior, identity = -self.D(images).mean(), F.cross_entropy(self.T(images), labels)
            (prior + 100 * identity).backward()
            prior.item(), identity.item()
            assert z.grad is not None
            with torch.no_grad():
                before = velocity.clone()
                velocity = 0.9 * velocity - 0.02 * z.grad
                z = (z - 0.9 * before + 1.9 * velocity).clamp(-1, 1)
            yield

    def _plain_kedmi(self) -> Iterator[None]:
        labels = torch.arange(BLOCK, device=self.device) % self.T.classes
        mu = torch.zeros(BLOCK, LATENT, device=self.device, requires_grad=True)
        rho = torch.zeros(BLOCK, LATENT, device=self.device, requires_grad=True)
        adam = torch.optim.Adam([mu, rho], 2e-2)
        while True:
            images = self.G(mu + (rho / 2).exp() * torch.randn(BLOCK, LATENT, device=self.device)).contiguous()
            realness = self.D(images)
            prior = F.softplus(realness).mean() - realness.mean()
            identity = F.cross_entropy(self.T(images), labels)
            adam.zero_grad()
            (prior + 100 * identity).backward()
            prior.item(), identity.item()
            adam.step()
            yield

    def needed(self) -> int:
        """Return the FLOPs of one image's forward and backward to the latent, weights frozen."""
        z = torch.randn(1, LATENT, requires_grad=True)
        counter = FlopCounterMode(display=False)
        assert self.prior.critic is not None
        with counter:
            images = self.prior.generator(z)
            total = self.target.model(images).sum() + self.prior.critic(images).sum()
            total.backward()
        return counter.get_total_flops()


def case_of(title: str, size: int) -> Case:
    """Return the networks of a title of ``CASES``."""
    attack, compare = CASES[title]
    return Case(attack, size, compare)


def turn_of(title: str, size: int, variant: str) -> Turn:
    """Return the turn of ``plain``, ``ours`` or ``ours bf16``."""
    case = case_of(title, size)
    return case.plain() if variant == "plain" else case.ours(variant == "ours bf16")


def measure(title: str, size: int, turns: int, peak: float) -> dict[str, float]:
    """Return milliseconds per image and step, ratios, and the share of the convolution peak."""
    plain = {"plain": partial(turn_of, title, size, "plain")}
    ours = {name: partial(turn_of, title, size, name) for name in ("ours", "ours bf16")}
    seconds = medians_apart(plain, ours, turns)
    result = {f"{name} ms": 1000 * value for name, value in seconds.items()}
    result["fp32 x"] = seconds["plain"] / seconds["ours"]
    result["bf16 x"] = seconds["plain"] / seconds["ours bf16"]
    result["% of peak"] = 100 * case_of(title, size).needed() / seconds["ours"] / peak
    return result


def main() -> None:
    """Measure, print, write JSON if asked."""
    chosen = asked(__doc__, NETS)
    peak = convolution_peak()
    print(f"fp32 convolution peak of one thread: {peak / 1e9:.0f} GFLOP/s", flush=True)
    table: dict[str, Any] = {}
    for size in chosen.sizes:
        for title in CASES:
            row = table[f"{title} {size}"] = measure(title, size, chosen.turns, peak)
            print(f"{title} {size}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    if chosen.json:
        write_json(chosen.json, {"unit": "ms CPU per image and step; ratios", "peak": peak, "measured": table})
    if chosen.publish:
        header = ["one step of one image", "plain, ms", "ours, ms", "bf16, ms", "fp32 ×", "bf16 ×", "% of peak"]
        rows = [[f"{name} px", *(f"{value:.3g}" for value in row.values())] for name, row in table.items()]
        rate = f", {peak / 1e9:.0f} GFLOP/s in a 3x3 convolution"
        publish("speed", markdown(header, rows) + measured_with(rate))


if __name__ == "__main__":
    main()
