"""The GAN participant (Hitaj, Ateniese and Perez-Cruz, CCS 2017).

The attacker has no image of the victim's class. In every round that it trains in it takes the received model theta_t as
a discriminator and moves its own generator G so that theta_t reads G(z) as that class; then it adds samples of G to its
images *under a label of its own* and trains honestly on the union. The victim, whose images now lie nearer to a wrong
class, has to teach the model more of what tells its class apart, which the next theta_{t+1} gives away.

It says that it trained on as many images as it holds. With ``images = 0`` its updates are the honest client's, bit for
bit: everything it draws comes from streams of its own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attacker.priors.dcgan import Generator
from attacker.priors.gan import gan_adam
from attacker.priors.prior import LATENT
from fedinverse.config import Section, parse
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier
from fedinverse.optimisers import descend
from fedinverse.seeds import derive, generator, seeded
from fedinverse.shard import Shard
from fedinverse.storage import into_module, load_weights, save_weights, to_weights

STATES = "gan-*.safetensors"


class Gan(Section):
    """Settings of the GAN participant."""

    target: int = Field(-1, ge=-1, description="class to draw; -1: the first of which the attacker holds no image")
    label: int = Field(
        -1, ge=-1, description="label under which samples are added, a spare class will do; -1: its own largest class"
    )
    images: int = Field(32, ge=0, description="samples added in a round; 0: none, and every update is an honest one")
    steps: int = Field(50, ge=0, description="generator steps in a round")
    batch_size: int = Field(32, ge=2, description="samples per step")
    lr: float = Field(1e-3, gt=0, description="learning rate of Adam, fresh every round")
    width: float = Field(0.25, gt=0, le=4, description="multiplies the generator's widths")


def state_file(server_round: int) -> str:
    """Return the name of the generator after ``server_round``."""
    return f"gan-{server_round:04d}.safetensors"


class GanParticipant:
    """See the module. What it remembers is the generator, one file per round, so that a repeated round is the same."""

    def __init__(
        self, settings: Mapping[str, Any], seed: int, directory: Path, device: str | torch.device, origin: str
    ) -> None:
        self.settings = parse(Gan, dict(settings), "active", origin)
        self._seed, self._directory, self._device = seed, directory, torch.device(device)

    def shard(self, network: Classifier, shard: Shard, server_round: int) -> Shard:
        """Return ``shard`` with samples of the generator, after it was trained against the received ``network``.

        Raises:
            ConfigError: the class to draw, or the label, is none of the network's.
        """
        target, label = _classes(self.settings, network.classes, shard)
        generator_network = self._before(network, server_round)
        self._train(generator_network, network, target, server_round)
        about = {"round": server_round, "target": target, "width": self.settings.width}
        save_weights(self._directory / state_file(server_round), to_weights(generator_network), about)
        count = self.settings.images
        if count == 0:
            return shard
        images = sampled(generator_network, count, derive(self._seed, "gan samples", server_round), self._device)
        labels = torch.full((count,), label, dtype=torch.int64)
        return Shard(torch.cat([shard.images, images]), torch.cat([shard.labels, labels]))

    def reply(self, network: Classifier, server_round: int) -> None:
        """Send what honest training on those images made."""

    def _before(self, network: Classifier, server_round: int) -> Generator:
        """Return the generator as the last round before ``server_round`` left it, or a new one."""
        with seeded(derive(self._seed, "gan weights")):
            generator_network = Generator(network.input_shape, self.settings.width)
        earlier = [path for path in sorted(self._directory.glob(STATES)) if path.name < state_file(server_round)]
        if earlier:
            into_module(generator_network, load_weights(earlier[-1])[0], str(earlier[-1]))
        return generator_network.to(self._device)

    def _train(self, generator_network: Generator, network: Classifier, target: int, server_round: int) -> None:
        """Minimise CE(network(G(z)), target) over G; the network stays as it is."""
        chosen = self.settings
        optimizer = gan_adam(generator_network, chosen.lr)
        noise = generator(self._seed, "gan noise", server_round)
        trained = network.training
        network.eval().requires_grad_(False)
        generator_network.train()
        try:
            wanted = torch.full((chosen.batch_size,), target, device=self._device)
            for _ in range(chosen.steps):
                z = torch.randn(chosen.batch_size, LATENT, generator=noise).to(self._device)
                descend(optimizer, F.cross_entropy(network(generator_network(z)), wanted))
        finally:
            network.requires_grad_(True).train(trained)


@torch.inference_mode()
def sampled(generator_network: Generator, count: int, seed: int, device: torch.device) -> Tensor:
    """Return ``count`` samples of a generator, uint8 [N, C, H, W]."""
    z = torch.randn(count, LATENT, generator=generator(seed, "z"))
    images = torch.cat([generator_network.eval()(part.to(device)) for part in z.split(256)])
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return pixels.contiguous(memory_format=torch.channels_last)


def _classes(settings: Gan, classes: int, shard: Shard) -> tuple[int, int]:
    """Return the class to draw and the label that samples are given."""
    held = shard.labels.bincount(minlength=classes)
    free = torch.nonzero(held == 0).flatten().tolist()
    if settings.target == -1 and not free:
        raise ConfigError("active.target: the attacker holds images of every class; say which one it is to draw")
    target = free[0] if settings.target == -1 else settings.target
    label = int(held.argmax()) if settings.label == -1 else settings.label
    for key, value in (("target", target), ("label", label)):
        if value >= classes:
            raise ConfigError(f"active.{key} is {value}, but the model has the classes 0 to {classes - 1}")
    if target == label:
        raise ConfigError(f"active.label is {label}, the class that is drawn; samples need another one")
    return target, label
