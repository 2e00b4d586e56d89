"""A prior's training step (5 critic steps and 1 generator step): ours against a plain loop in the published style.

    python benchmarks/gan_speed.py [--sizes 32 64] [--turns 3] [--json PATH] [--publish]

The plain loop is written from the papers' formulas the way their public code runs: NCHW, one pass of G and D for every
kind of image, T's soft labels computed again in every step with T's weights collecting gradients. Ours is the training
of ``attacker.priors`` as it is; there the soft labels are computed once per target, which the step's time leaves out.
Published widths and batch (64), mcnn at 32 pixels, vgg16 at 64; interleaved, one thread, CPU time, medians.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from interleaved import Ticks, Turn, asked, medians_apart
from plain_networks import plain_network
from tables import markdown, measured_with, publish
from torch import Tensor, nn

from attacker.priors import kplus1, plg_gan, vmi_dcgan, wgan_gp
from attacker.priors.dcgan import LATENT, Critic, Generator
from attacker.priors.gan import gan_adam
from attacker.priors.kplus1 import Discriminator, KPlus1, KPlus1Settings, discriminator_loss, generator_loss
from attacker.priors.prior import PriorTrainer, trained_prior
from attacker.priors.wgan_gp import WganGp, WganGpSettings, gradient_penalty
from attacker.target import PublicSet, Target
from fedinverse.data.source import unit
from fedinverse.models import build, for_inference
from fedinverse.storage import write_json

CPU = torch.device("cpu")
NETS = {32: ("mcnn", 10), 64: ("vgg16", 1000)}
BATCH, CRITIC_STEPS, STEPS, IMAGES = 64, 5, 2, 128
TITLES = {"kplus1": "training the K+1 prior", "wgan-gp": "training the WGAN-GP prior"}


def noise(size: int) -> Tensor:
    """Return public images, uint8 [N, C, H, W]; what they show makes no difference to the time."""
    shape = build(*NETS[size], seed=0).input_shape
    return torch.randint(256, (IMAGES, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ours(kind: str, size: int) -> Turn:
    """Return a turn of our training; a new seed each, so that nothing comes from the cache."""
    name, classes = NETS[size]
    public = PublicSet(noise(size).contiguous(memory_format=torch.channels_last), f"noise-{size}")
    target = Target(for_inference(build(name, classes, seed=0)), "untrained", 0, CPU)
    seeds = iter(range(10**6))

    def turn() -> list[float]:
        ticks = Ticks(TITLES[kind])
        trained_prior(trainer_of(kind, steps=STEPS + 1), target, public, next(seeds), CPU, ticks)
        return ticks.steps

    return turn


def trainer_of(kind: str, **settings: Any) -> PriorTrainer:
    """Return our training of ``kind``."""
    return KPlus1(KPlus1Settings(**settings)) if kind == "kplus1" else WganGp(WganGpSettings(**settings))


@contextmanager
def kernel_by_kernel() -> Iterator[None]:
    """Train priors on CUDA without recording their steps, for the time of a block."""
    with ExitStack() as stack:
        for module in (kplus1, plg_gan, vmi_dcgan, wgan_gp):
            stack.enter_context(patch.object(module, "replayed", lambda step, device: step))
        yield


def plain_steps(kind: str, size: int, device: torch.device = CPU) -> Iterator[None]:
    """Return the plain loop, step by step."""
    (name, classes), images = NETS[size], noise(size).to(device)
    T = plain_network(build(name, classes, seed=0)).to(device).eval()
    G = plain_network(Generator(T.input_shape)).to(device).train()
    D: nn.Module = Discriminator(T.input_shape, classes, 1.0, False) if kind == "kplus1" else Critic(T.input_shape)
    D = plain_network(D).to(device).train()
    return _plain_kplus1(T, G, D, images) if kind == "kplus1" else _plain_wgan_gp(G, D, images)


def plain(kind: str, size: int) -> Turn:
    """Return a turn of the plain loop."""
    training = plain_steps(kind, size)

    def turn() -> list[float]:
        taken = []
        for _ in range(STEPS):
            start = time.process_time()
            next(training)
            taken.append(time.process_time() - start)
        return taken

    return turn


def _batch(images: Tensor) -> Tensor:
    rows = torch.randint(len(images), (BATCH,), device=images.device)
    return unit(images[rows], images.device).contiguous()


def _plain_kplus1(T: nn.Module, G: nn.Module, D: nn.Module, images: Tensor) -> Iterator[None]:
    step_G, step_D = gan_adam(G, 2e-4), gan_adam(D, 2e-4)
    while True:
        for _ in range(CRITIC_STEPS):
            labelled, unlabelled = _batch(images), _batch(images)
            fake = G(torch.randn(BATCH, LATENT, device=images.device)).detach().contiguous()
            soft = T(labelled).softmax(1)
            loss = discriminator_loss(D(labelled)[1], soft, D(unlabelled)[1], D(fake)[1])
            step_D.zero_grad()
            loss.backward()
            loss.item()
            step_D.step()
        real, _ = D(_batch(images))
        generated, logits = D(G(torch.randn(BATCH, LATENT, device=images.device)).contiguous())
        loss = generator_loss(generated, real, logits)
        step_G.zero_grad()
        loss.backward()
        loss.item()
        step_G.step()
        yield


def _plain_wgan_gp(G: nn.Module, D: nn.Module, images: Tensor) -> Iterator[None]:
    step_G, step_D = gan_adam(G, 2e-4), gan_adam(D, 2e-4)
    while True:
        for _ in range(CRITIC_STEPS):
            real, fake = _batch(images), G(torch.randn(BATCH, LATENT, device=images.device)).detach().contiguous()
            loss = D(fake).mean() - D(real).mean()
            loss = loss + 10 * gradient_penalty(D, real, fake, torch.rand(BATCH, 1, 1, 1, device=images.device))
            step_D.zero_grad()
            loss.backward()
            loss.item()
            step_D.step()
        loss = -D(G(torch.randn(BATCH, LATENT, device=images.device)).contiguous()).mean()
        step_G.zero_grad()
        loss.backward()
        loss.item()
        step_G.step()
        yield


def measure(kind: str, size: int, turns: int) -> dict[str, float]:
    """Return seconds per training step and their ratio."""
    seconds = medians_apart({"plain": partial(plain, kind, size)}, {"ours": partial(ours, kind, size)}, turns)
    return {f"{name} s": value for name, value in seconds.items()} | {"x": seconds["plain"] / seconds["ours"]}


def main() -> None:
    """Measure, print, write JSON if asked."""
    chosen = asked(__doc__, NETS)
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDINVERSE_CACHE"] = cache
        for size in chosen.sizes:
            for kind in TITLES:
                row = table[f"{kind} {size}"] = measure(kind, size, chosen.turns)
                print(f"{kind} {size}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    if chosen.json:
        write_json(chosen.json, {"unit": "s CPU per step of 5 D and 1 G; ratio", "measured": table})
    if chosen.publish:
        rows = [[f"{name} px", *(f"{value:.3g}" for value in row.values())] for name, row in table.items()]
        header = ["one training step", "plain, s", "ours, s", "×"]
        publish("gan-speed", markdown(header, rows) + measured_with())


if __name__ == "__main__":
    main()
