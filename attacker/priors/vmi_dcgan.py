"""The DCGAN prior of VMI (Wang et al. 2021): binary cross-entropy, spectral norm in G and D, noisy inputs to D.

L_D = E softplus(-D(x + n)) + E softplus(D(G z + n)),  L_G = E softplus(-D(G z + n)),  n ~ N(0, .1^2)

Independent of the target, trained once. It has no critic that an attack could use: D saw noisy images only.

| differs from the published code | why |
|---|---|
| G's last layer is free of spectral norm | bounded, it cannot reach black and white: G collapsed in every trial |
| spectral norm is made part of the weights after training | same images, no power iteration during inversion |
| D has InstanceNorm, not BatchNorm | one pass over real and fake images without mixing their statistics |
| an exponential average of G is sampled from | short trainings jitter |
| progress is counted in generator steps, not epochs | the public set's size should not change the cost |
"""

import copy

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacker.attacks.attack import Progress, PublicSet, Stopwatch, silent
from attacker.priors.averaging import averaged
from attacker.priors.dcgan import LATENT, Critic, Generator, gan_adam
from attacker.priors.prior import Prior, cached
from attacker.priors.spectral import baked, normalise
from fedinverse.config import Section
from fedinverse.data.source import unit
from fedinverse.models import for_inference
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import content_sha256

VERSION = 2  # part of the cache key; raise it when training changes


class VmiDcganSettings(Section):
    """Training of VMI's DCGAN."""

    width: float = Field(1.0, gt=0, le=4, description="multiplies the networks' widths; 1 is the published size")
    steps: int = Field(20_000, ge=1, description="generator steps, each after one discriminator step")
    batch_size: int = Field(64, ge=2, description="images per step, real and fake each")
    lr: float = Field(2e-4, gt=0, description="Adam's learning rate; betas are (.5, .999)")
    input_noise: float = Field(0.1, ge=0, description="standard deviation of the noise on D's input")


def vmi_dcgan_prior(
    settings: VmiDcganSettings,
    public: PublicSet,
    seed: int,
    device: torch.device,
    progress: Progress = silent,
) -> Prior:
    """Return VMI's DCGAN for ``public``, trained or from the cache; the generator is ready for inference."""
    shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
    about = {"settings": settings.model_dump(), "public": public.key, "seed": seed, "shape": shape}
    key = content_sha256(about | {"version": VERSION})
    with seeded(derive(seed, "vmi-dcgan", "weights")):
        G, D = Generator(shape, settings.width), Critic(shape, settings.width)
        for net in (G, D):
            net.to(device).to(memory_format=torch.channels_last)
        trained = cached(
            "vmi-dcgan",
            key,
            nn.ModuleDict({"generator": G}),
            lambda: _train(G, D, settings, public, seed=seed, progress=progress),
        )
    return Prior("vmi-dcgan", for_inference(G, device), None, LATENT, shape, key, float(trained["seconds"]))


def _train(
    plain: Generator,
    D: Critic,
    settings: VmiDcganSettings,
    public: PublicSet,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, str]:
    """Train; give ``plain`` the averaged weights, their spectral norm divided out."""
    watch, random = Stopwatch(), generator(seed, "vmi-dcgan", "training")
    device = next(plain.parameters()).device
    G = copy.deepcopy(plain)
    normalise(G.train(), free=G.paint)
    normalise(D.train())
    average = averaged(G)
    step_G, step_D = gan_adam(G, settings.lr), gan_adam(D, settings.lr)
    images, B = public.images.to(device), settings.batch_size

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device)

    for step in range(settings.steps):
        row = torch.randint(len(images), (B,), generator=random).to(device)
        with torch.no_grad():
            fake = G(noise(B, LATENT))
        pair = torch.cat([unit(images[row], device), fake])
        scores = D(pair + settings.input_noise * noise(*pair.shape))
        loss_D = F.softplus(-scores[:B]).mean() + F.softplus(scores[B:]).mean()
        step_D.zero_grad(set_to_none=True)
        loss_D.backward()
        step_D.step()
        D.requires_grad_(False)
        fake = G(noise(B, LATENT))
        loss_G = F.softplus(-D(fake + settings.input_noise * noise(*fake.shape))).mean()
        step_G.zero_grad(set_to_none=True)
        loss_G.backward()
        step_G.step()
        D.requires_grad_(True)
        average.update_parameters(G)
        progress("training VMI's prior", step + 1, settings.steps)
    plain.load_state_dict(baked(average.module))
    return {"seconds": f"{watch.seconds:.3f}"}
