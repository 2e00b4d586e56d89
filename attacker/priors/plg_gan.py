"""The pseudo-labelled conditional GAN of PLG-MI (Yuan et al., AAAI 2023).

Every class takes the n public images that the target gives it with the highest probability as its pseudo-labelled
images; a conditional GAN learns them, and its generator is led by the target besides:

L_D = E max(0, 1 - D(x, y)) + E max(0, 1 + D(G(z, y), y))                                             (eq. 3)
L_G = -E D(G(z, y), y) + .2 E L_maxmargin(T(A(G(z, y))), y),  A: a random augmentation                 (eq. 4)

D is a projection discriminator (Miyato and Koyama 2018): w . f(x) + v_y . f(x). The GAN belongs to one target: it is
cached under the target's hash.

| differs from the published code | why |
|---|---|
| DCGAN stages with class-conditional BatchNorm; published: a residual GAN | the sizes of the other priors |
| D has InstanceNorm besides spectral norm | without it plain stages learn nothing in short trainings |
| pseudo-labels and hinge steps batched on the device | speed |
| G's last layer is free of spectral norm | bounded, it cannot reach black and white |
| spectral norm of G is made part of its weights after training | no power iteration during inversion |
| an exponential average of G is sampled from | short trainings jitter |
"""

import copy
import itertools

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacker.attacks.attack import Progress, PublicSet, Stopwatch, Target, silent
from attacker.losses.augment import NUMBERS, augmented
from attacker.losses.identity import IdentityLoss
from attacker.priors.averaging import averaged
from attacker.priors.dcgan import LATENT, stages
from attacker.priors.prior import Prior, cached
from attacker.priors.spectral import baked, normalise
from attacker.public_view import public_view
from fedinverse.config import Section
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError
from fedinverse.models import for_inference
from fedinverse.models.image_layers import LookConv2d, PaintDeconv2d
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import content_sha256

VERSION = 2  # part of the cache key; raise it when training changes


class PlgGanSettings(Section):
    """Training of the conditional GAN. The paper's values: 30 images per class, batch 64, 30,000 steps."""

    width: float = Field(1.0, gt=0, le=4, description="multiplies the networks' widths")
    steps: int = Field(30_000, ge=1, description="generator steps")
    critic_steps: int = Field(5, ge=1, description="discriminator steps per generator step")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(2e-4, gt=0, description="Adam's learning rate; betas are (0, .9)")
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
    """z [N, 100], labels [N] -> images [N, C, H, W] in (0, 1). Without labels, the classes in turn."""

    def __init__(self, shape: tuple[int, int, int], classes: int, width: float) -> None:
        super().__init__()
        widths = stages(shape, width)
        self.classes, self.first = classes, widths[0]
        self.project = nn.Linear(LATENT, widths[0] * 16)
        self.deconvolve = nn.ModuleList(
            nn.ConvTranspose2d(fan_in, fan_out, 5, 2, 2, output_padding=1, bias=False)
            for fan_in, fan_out in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(_ConditionalNorm(count, classes) for count in widths)
        self.paint = PaintDeconv2d(widths[-1], shape[0], 5, 2, 2, output_padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of ``z``."""
        if labels is None:
            labels = torch.arange(len(z), device=z.device) % self.classes
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
            norm = [nn.InstanceNorm2d(fan_out, affine=True)] if stage else []
            convolution = nn.Conv2d if stage else LookConv2d
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


def plg_prior(
    settings: PlgGanSettings, target: Target, public: PublicSet, *, seed: int, progress: Progress = silent
) -> Prior:
    """Return the conditional GAN of ``public`` for ``target``, trained or from the cache, ready for inference.

    Raises:
        ConfigError: the public images are not of the shape the target takes.
    """
    shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
    if shape != target.model.input_shape:
        raise ConfigError(
            f"the public images are {shape} but the target takes {target.model.input_shape}; "
            "prepare the public set in that shape"
        )
    about = {"settings": settings.model_dump(), "target": target.sha256, "public": public.key, "seed": seed}
    key = content_sha256(about | {"shape": shape, "version": VERSION})
    with seeded(derive(seed, "plg", "weights")):
        G = ConditionalGenerator(shape, target.model.classes, settings.width)
        D = ProjectionDiscriminator(shape, target.model.classes, settings.width)
        for net in (G, D):
            net.to(target.device).to(memory_format=torch.channels_last)
        trained = cached(
            "plg",
            key,
            nn.ModuleDict({"generator": G}),
            lambda: _train(G, D, settings, target, public, seed=seed, progress=progress),
        )
    return Prior("plg", for_inference(G, target.device), None, LATENT, shape, key, float(trained["seconds"]))


def _train(
    plain: ConditionalGenerator,
    D: ProjectionDiscriminator,
    settings: PlgGanSettings,
    target: Target,
    public: PublicSet,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, str]:
    """Train; give ``plain`` the averaged weights, their spectral norm divided out."""
    watch, random, device = Stopwatch(), generator(seed, "plg", "training"), target.device
    G = copy.deepcopy(plain)
    normalise(G.train(), free=G.paint)
    normalise(D.train())
    average = averaged(G)
    step_G, step_D = (torch.optim.Adam(net.parameters(), settings.lr, betas=(0.0, 0.9)) for net in (G, D))
    images, B, n = public.images.to(device), settings.batch_size, settings.critic_steps
    chosen = pseudo_labels(public_view(target.model, public.images, device)[1].softmax(1), settings.top)
    margin, classes = IdentityLoss("max_margin"), len(chosen)

    def labels(count: int) -> Tensor:
        return torch.randint(classes, (count,), generator=random).to(device)

    def noise(count: int) -> Tensor:
        return torch.randn(count, LATENT, generator=random).to(device)

    for step in range(settings.steps):
        real_labels, fake_labels = labels(n * B).split(B), labels(n * B)
        with torch.no_grad():
            fakes = G(noise(n * B), fake_labels).split(B)
        for fake, real_y, fake_y in zip(fakes, real_labels, fake_labels.split(B), strict=True):
            row = chosen[real_y, torch.randint(chosen.shape[1], (B,), generator=random).to(device)]
            scores = D(torch.cat([unit(images[row], device), fake]), torch.cat([real_y, fake_y]))
            loss_D = F.relu(1 - scores[:B]).mean() + F.relu(1 + scores[B:]).mean()
            step_D.zero_grad(set_to_none=True)
            loss_D.backward()
            step_D.step()
        D.requires_grad_(False)
        y = labels(B)
        fake = G(noise(B), y)
        chance = torch.rand(B, NUMBERS, generator=random).to(device)
        guide = margin(target.model.features(augmented(fake, chance)), y).mean()
        loss_G = settings.guidance * guide - D(fake, y).mean()
        step_G.zero_grad(set_to_none=True)
        loss_G.backward()
        step_G.step()
        D.requires_grad_(True)
        average.update_parameters(G)
        progress("training PLG-MI's prior", step + 1, settings.steps)
    plain.load_state_dict(baked(average.module))
    return {"seconds": f"{watch.seconds:.3f}", "target": target.sha256}
