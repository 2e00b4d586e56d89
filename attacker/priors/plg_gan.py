"""The pseudo-labelled conditional GAN of PLG-MI (Yuan et al., AAAI 2023).

Every class takes the n public images that the target gives it with the highest probability as its pseudo-labelled
images; a conditional GAN learns them, and its generator is led by the target besides:

L_D = E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y))                                             (eq. 3)
L_G = -E D(G(z, y), y) + .2 E L_maxmargin(T(A(G(z, y))), y),  A: a random augmentation                 (eq. 4)

D is a projection discriminator (Miyato and Koyama 2018), w . f(x) + v_y . f(x), under spectral norm. G is not, as
published, and its z has 128 numbers. The GAN belongs to one target: it is cached under the target's hash.

| differs from the published code | why |
|---|---|
| DCGAN stages with class-conditional BatchNorm; published: a residual GAN | the sizes of the other priors |
| D has InstanceNorm besides spectral norm | without it plain stages learn nothing in short trainings |
| pseudo-labels and hinge steps batched on the device | speed |
| an exponential average of G is sampled from | short trainings jitter |
"""

import itertools

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacker.losses.augment import NUMBERS, augmented
from attacker.losses.identity import max_margin
from attacker.priors.dcgan import stages
from attacker.priors.gan import CriticStepsSettings, averaged, gan_adam, normalise
from attacker.priors.instance_norm import InstanceNorm2d
from attacker.priors.prior import PriorTrainer, Training
from attacker.replayed import replayed
from attacker.target import public_view
from fedinverse.models.image_layers import ImageConv2d, ImageConvTranspose2d
from fedinverse.optimisers import descend


class PlgGanSettings(CriticStepsSettings):
    """Training of the conditional GAN. The paper's values: 30 images per class, batch 64, 30,000 steps."""

    steps: int = Field(30_000, ge=1, description="generator steps")
    latent: int = Field(128, ge=1, description="dimension of z")
    top: int = Field(30, ge=1, description="public images per class, those the target finds likeliest")
    guidance: float = Field(0.2, ge=0, description="weight of the target's max-margin loss on augmented fakes")


class _ConditionalNorm(nn.Module):
    """BatchNorm whose scale and shift belong to the class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.shift = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        normal: Tensor = self.norm(hidden)
        return normal * self.scale[labels][:, :, None, None] + self.shift[labels][:, :, None, None]


class ConditionalGenerator(nn.Module):
    """z [N, latent], labels [N] -> images [N, C, H, W] in (0, 1)."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float, latent: int) -> None:
        super().__init__()
        widths = stages(shape, width)
        self.classes, self.latent, self.first = classes, latent, widths[0]
        self.project = nn.Linear(latent, widths[0] * 16)
        self.deconvolve = nn.ModuleList(
            nn.ConvTranspose2d(fan_in, fan_out, 5, 2, 2, output_padding=1, bias=False)
            for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_ConditionalNorm(count, classes) for count in widths)
        self.paint = ImageConvTranspose2d(widths[-1], shape[0], 5, 2, 2, output_padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate one image per row of ``z``."""
        hidden = self.project(z).view(len(z), self.first, 4, 4).contiguous(memory_format=torch.channels_last)
        hidden = self.norms[0](hidden, labels).relu()
        for layer, norm in zip(self.deconvolve, list(self.norms)[1:], strict=True):
            hidden = norm(layer(hidden), labels).relu()
        return torch.sigmoid(self.paint(hidden))


class ProjectionDiscriminator(nn.Module):
    """images [N, C, H, W], labels [N] -> realness [N]."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float) -> None:
        super().__init__()
        widths = [shape[0], *stages(shape, width)[::-1]]
        layers: list[nn.Module] = []
        for stage, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            norm = [InstanceNorm2d(fan_out)] if stage else []
            convolution = nn.Conv2d if stage else ImageConv2d
            layers += [convolution(fan_in, fan_out, 5, 2, 2), *norm, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Linear(widths[-1], 1)
        self.project = nn.Embedding(classes, widths[-1])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score every image as one of its class."""
        features = self.layers(images).sum((2, 3))
        score: Tensor = self.judge(features).squeeze(1) + (self.project(labels) * features).sum(1)
        return score


def pseudo_labels(probability: Tensor, top: int) -> Tensor:
    """Return the rows of the ``top`` likeliest images of each class, [K, top], of ``probability`` [N, K]."""
    return probability.topk(min(top, len(probability)), 0).indices.T


class PlgGan(PriorTrainer):
    """Trains a conditional generator that the target labels and leads."""

    name = "plg"
    version = 4
    targeted = True
    rotates = True
    settings: PlgGanSettings

    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return the conditional generator and the projection discriminator."""
        G = ConditionalGenerator(shape, classes, self.settings.width, self.settings.latent)
        D = ProjectionDiscriminator(shape, classes, self.settings.width)
        return nn.ModuleDict({"generator": G, "discriminator": D})

    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Train in place; leave the average in the generator."""
        settings, B, n = self.settings, self.settings.batch_size, self.settings.critic_steps
        G, D, victim = nets["generator"].train(), nets["discriminator"].train(), data.victim.model
        normalise(D)
        average = averaged(G)
        step_G, step_D = (gan_adam(net, settings.lr, (0.0, 0.9)) for net in (G, D))
        chosen = pseudo_labels(public_view(victim, data.public.images, data.device)[1].softmax(1), settings.top)

        def labels(count: int) -> Tensor:
            return data.whole(len(chosen), count)

        def discriminate(real_y: Tensor, row: Tensor, fake: Tensor, fake_y: Tensor) -> None:
            real = data.real(chosen[real_y, row])
            scores = D(torch.cat([real, fake]), torch.cat([real_y, fake_y]))
            descend(step_D, F.relu(1 - scores[:B]).mean() + F.relu(1 + scores[B:]).mean())  # eq. 3

        def generate(y: Tensor, z: Tensor, chance: Tensor) -> None:
            D.requires_grad_(False)
            fake = G(z, y)
            guide = max_margin(victim(augmented(fake, chance)), y).mean()
            descend(step_G, settings.guidance * guide - D(fake, y).mean())  # eq. 4
            D.requires_grad_(True)

        discriminate, generate = replayed(discriminate, data.device), replayed(generate, data.device)
        networks = {"generator": G, "discriminator": D, "average": average}
        optimisers = {"step_G": step_G, "step_D": step_D}
        for _ in data.steps(settings.steps, "training PLG-MI's prior", networks, optimisers):
            real_labels, fake_labels = labels(n * B).split(B), labels(n * B)
            with torch.no_grad():
                fakes = G(data.noise(n * B, settings.latent), fake_labels).split(B)
            for fake, real_y, fake_y in zip(fakes, real_labels, fake_labels.split(B), strict=True):
                discriminate(real_y, data.whole(chosen.shape[1], B), fake, fake_y)
            y, z = labels(B), data.noise(B, settings.latent)
            generate(y, z, data.uniform(B, NUMBERS))
            average.update_parameters(G)
        G.load_state_dict(average.module.state_dict())
