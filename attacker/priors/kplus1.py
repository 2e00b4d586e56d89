"""The inversion-specific GAN of KED-MI (Chen et al., ICCV 2021): D tells K classes, as the target sees them, and fake.

D gives K logits l; the logit of "fake" is fixed at 0. With s = logsumexp(l), P(real) = e^s / (e^s + 1).

L_D = CE(softmax T(x_a), l(x_a)) + 1/2 [E softplus(s(x_u)) - E s(x_u) + E softplus(s(G z))]           (eq. 2-3)
L_G = mean_j |E f_j(G z) - E f_j(x_u')| + 1e-4 sum_batch H(softmax l(G z)),  f: D's features          (eq. 4)

The GAN belongs to one target: it is cached under the target's hash and made again for every audited round.

| differs from the published code | why |
|---|---|
| T in eval mode; published code leaves it in train mode | its BatchNorm statistics drift: another target |
| soft labels of the public images once per target | T costs 2-4x the rest of the step and never changes |
| one pass of D over labelled, unlabelled and fake images, one of G for all fakes of a step | speed, same loss |
| minibatch discrimination off by default | at initialisation inert: its least L1 distance is ~1,400, exp underflows |
| an exponential average of G is sampled from | short trainings jitter |
| progress is counted in generator steps, not epochs | the public set's size should not change the cost |
"""

import itertools

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacker.priors.dcgan import Generator
from attacker.priors.gan import CriticStepsSettings, averaged, gan_adam
from attacker.priors.instance_norm import InstanceNorm2d
from attacker.priors.prior import LATENT, PriorTrainer, Training
from attacker.replayed import replayed
from attacker.target import public_view
from fedinverse.models.classifier import scaled
from fedinverse.models.image_layers import ImageConv2d
from fedinverse.optimisers import descend

_ENTROPY = 1e-4  # weight of the entropy of D's decision on fakes


class KPlus1Settings(CriticStepsSettings):
    """Training of the K+1 GAN. The papers' values: width 1, batch 64, ~100 epochs (CelebA: ~9,400 steps)."""

    steps: int = Field(9_400, ge=1, description="generator steps")
    minibatch_discrimination: bool = Field(
        False, description="published; inert at initialisation, and couples the images of a batch"
    )


class MinibatchDiscrimination(nn.Module):
    """Features that tell how close an image is to the others of its batch (Salimans et al. 2016), 64 kernels x 50."""

    def __init__(self, features: int, kernels: int = 64, dimensions: int = 50) -> None:
        super().__init__()
        self.kernels, self.dimensions = kernels, dimensions
        self.project = nn.Parameter(torch.randn(features, kernels * dimensions))

    def forward(self, features: Tensor) -> Tensor:
        """Return [N, 64] of ``features`` [N, F]: sum over the others of exp(-L1 distance)."""
        rows = (features @ self.project).view(len(features), self.kernels, self.dimensions).transpose(0, 1)
        return torch.exp(-torch.cdist(rows, rows, p=1)).sum(2).T - 1  # less the distance to itself


class Discriminator(nn.Module):
    """images [N, C, H, W] -> features [N, 4096] at width 1 and K logits [N, K].

    5x5 stride-2 convolutions C-64-128-256, at 64 pixels a 3x3 stride-2 256-256; affine InstanceNorm after each, so
    that features do not follow an image's contrast; linear.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float, minibatch_discrimination: bool) -> None:
        super().__init__()
        channels, _, side = shape
        widths = [channels, *(scaled(count, width) for count in (64, 128, 256))]
        layers: list[nn.Module] = []
        for stage, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            convolution = nn.Conv2d if stage else ImageConv2d
            layers += [
                convolution(fan_in, fan_out, 5, 2, 2),
                InstanceNorm2d(fan_out),
                nn.LeakyReLU(0.2),
            ]
        for _ in range(side.bit_length() - 6):  # 32 pixels: none, 64: one
            layers += [nn.Conv2d(widths[-1], widths[-1], 3, 2, 1), InstanceNorm2d(widths[-1])]
            layers += [nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        flat = widths[-1] * 16
        self.compare = MinibatchDiscrimination(flat) if minibatch_discrimination else None
        self.head = nn.Linear(flat + (self.compare.kernels if self.compare else 0), classes)

    def forward(self, images: Tensor, kinds: int = 1) -> tuple[Tensor, Tensor]:
        """Return features and logits; ``kinds`` equal parts of the batch are not compared to one another."""
        features = self.layers(images)
        joined = features
        if self.compare is not None:
            compared = torch.cat([self.compare(part) for part in features.chunk(kinds)])
            joined = torch.cat([features, compared], 1)
        return features, self.head(joined)


class Realness(nn.Module):
    """The critic an attack sees: s = logsumexp(l), so that P(real) = sigmoid(s)."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        """Return s [N] of ``images`` [N, C, H, W]; higher is more natural."""
        _, logits = self.discriminator(images)
        return torch.logsumexp(logits, 1)


def discriminator_loss(labelled: Tensor, soft: Tensor, unlabelled: Tensor, fake: Tensor) -> Tensor:
    """Return L_D of logits [B, K] of the three kinds of images; ``soft`` [B, K] are the target's probabilities."""
    real, generated = torch.logsumexp(unlabelled, 1), torch.logsumexp(fake, 1)
    unsupervised = 0.5 * (F.softplus(real).mean() - real.mean() + F.softplus(generated).mean())
    return F.cross_entropy(labelled, soft) + unsupervised


def generator_loss(fake_features: Tensor, real_features: Tensor, fake: Tensor) -> Tensor:
    """Return L_G of D's features [B, F] of fakes and of real images, and its logits [B, K] of the fakes."""
    matching = (fake_features.mean(0) - real_features.mean(0)).abs().mean()
    return matching + _ENTROPY * entropy(fake)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax(l), in nats, summed over the batch [B, K]."""
    log = logits.log_softmax(1)
    return -(log.exp() * log).sum()


class KPlus1(PriorTrainer):
    """Trains generator and discriminator against the target."""

    name = "kplus1"
    version = 5
    targeted = True
    kept = ("generator", "discriminator")
    settings: KPlus1Settings

    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return DCGAN's generator and the discriminator of ``classes`` classes."""
        settings = self.settings
        G = Generator(shape, settings.width)
        D = Discriminator(shape, classes, settings.width, settings.minibatch_discrimination)
        return nn.ModuleDict({"generator": G, "discriminator": D})

    def critic(self, nets: nn.ModuleDict) -> nn.Module:
        """Return what the attack sees of D."""
        return Realness(nets["discriminator"])

    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Train in place; leave the average in the generator."""
        settings, B, n = self.settings, self.settings.batch_size, self.settings.critic_steps
        G, D = nets["generator"].train(), nets["discriminator"].train()
        soft = public_view(data.victim.model, data.public.images, data.device)[1].softmax(1)  # once per target
        average = averaged(G)
        step_G, step_D = gan_adam(G, settings.lr), gan_adam(D, settings.lr)
        networks, optimisers = {**nets, "average": average}, {"step_G": step_G, "step_D": step_D}

        def discriminate(rows: Tensor, fake: Tensor) -> None:
            _, logits = D(torch.cat([data.real(rows), fake]), kinds=3)  # its three kinds of images in one pass
            labelled, unlabelled, generated = logits.split(B)
            descend(step_D, discriminator_loss(labelled, soft[rows[:B]], unlabelled, generated))  # eq. 2-3

        def generate(rows: Tensor, z: Tensor) -> None:
            D.requires_grad_(False)  # its weights need no gradient here, nor do the real images' features
            with torch.no_grad():
                real, _ = D(data.real(rows))
            generated, logits = D(G(z))
            descend(step_G, generator_loss(generated, real, logits))  # eq. 4
            D.requires_grad_(True)

        discriminate, generate = replayed(discriminate, data.device), replayed(generate, data.device)
        for _ in data.steps(settings.steps, "training the K+1 prior", networks, optimisers):
            with torch.no_grad():
                fakes = G(data.noise(n * B, LATENT)).split(B)  # all the discriminator's fakes in one pass
            for fake, rows in zip(fakes, data.rows(n, 2 * B), strict=True):
                discriminate(rows, fake)
            generate(data.rows(B), data.noise(B, LATENT))
            average.update_parameters(G)
        G.load_state_dict(average.module.state_dict())
