"""WGAN-GP, the prior of GMI (Zhang et al. 2020; Gulrajani et al. 2017): independent of the target, trained once.

L_D = -(E D(x) - E D(G z)) + 10 E (||grad D(x^)||_2 - 1)^2,  x^ uniform on the segment x - G z     (1)
L_G = -E D(G z)                                                                                     (2)

| differs from the published code | why |
|---|---|
| an exponential average of G is sampled from, its decay warming up to .999 | short trainings jitter |
| progress is counted in generator steps, not epochs | the public set's size should not change the cost |
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from attacker.attacks.attack import Progress, PublicSet, Stopwatch, silent
from attacker.priors.averaging import averaged
from attacker.priors.dcgan import LATENT, Critic, Generator, gan_adam
from attacker.priors.prior import Prior, cached
from fedinverse.config import Section
from fedinverse.data.source import unit
from fedinverse.models import for_inference
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import content_sha256

VERSION = 2  # part of the cache key; raise it when training changes


class WganGpSettings(Section):
    """Training of the WGAN-GP prior. The papers' values: width 1, ~47,000 steps on MNIST, ~140,000 on CelebA."""

    width: float = Field(1.0, gt=0, le=4, description="multiplies the networks' widths; 1 is the published size")
    steps: int = Field(20_000, ge=1, description="generator steps")
    critic_steps: int = Field(5, ge=1, description="critic steps per generator step")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(2e-4, gt=0, description="Adam's learning rate; betas are (.5, .999)")
    penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return E (||grad D(x^)||_2 - 1)^2 with x^ = mix * real + (1 - mix) * fake; ``mix`` [N, 1, 1, 1] in [0, 1]."""
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = slope.flatten(1).norm(2, dim=1)
    return (norms - 1).square().mean()


def wgan_gp_prior(
    settings: WganGpSettings, public: PublicSet, seed: int, device: torch.device, progress: Progress = silent
) -> Prior:
    """Return the WGAN-GP prior for ``public``, trained or from the cache; generator and critic ready for inference."""
    shape = (int(public.images.shape[1]), int(public.images.shape[2]), int(public.images.shape[3]))
    key = content_sha256(
        {
            "settings": settings.model_dump(),
            "public": public.key,
            "seed": seed,
            "shape": shape,
            "version": VERSION,
        }
    )
    with seeded(derive(seed, "wgan-gp", "weights")):
        nets = nn.ModuleDict({"generator": Generator(shape, settings.width), "critic": Critic(shape, settings.width)})
    nets = nets.to(device).to(memory_format=torch.channels_last)
    about = cached(
        "wgan-gp",
        key,
        nets,
        lambda: _train(nets, settings, public, seed=seed, device=device, progress=progress),
    )
    return Prior(
        "wgan-gp",
        for_inference(nets["generator"], device),
        for_inference(nets["critic"], device),
        LATENT,
        shape,
        key,
        float(about["seconds"]),
    )


def _train(
    nets: nn.ModuleDict,
    settings: WganGpSettings,
    public: PublicSet,
    *,
    seed: int,
    device: torch.device,
    progress: Progress,
) -> dict[str, str]:
    """Train in place; leave the averaged generator in ``nets["generator"]``."""
    watch = Stopwatch()
    random = generator(seed, "wgan-gp", "training")
    G, D = nets["generator"].train(), nets["critic"].train()
    images = public.images.to(device)
    average = averaged(G)
    step_G, step_D = gan_adam(G, settings.lr), gan_adam(D, settings.lr)
    B = settings.batch_size

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device)

    for step in range(settings.steps):
        # (1) critic: all its fakes in one generator pass
        with torch.no_grad():
            fakes = G(noise(settings.critic_steps * B, LATENT)).split(B)
        rows = torch.randint(len(images), (settings.critic_steps, B), generator=random)
        for fake, row in zip(fakes, rows, strict=True):
            real = unit(images[row], device)
            scores = D(torch.cat([real, fake]))
            mix = torch.rand(B, 1, 1, 1, generator=random).to(device)
            loss_D = scores[B:].mean() - scores[:B].mean()
            loss_D = loss_D + settings.penalty * gradient_penalty(D, real, fake, mix)
            step_D.zero_grad(set_to_none=True)
            loss_D.backward()
            step_D.step()
        # (2) generator: the critic's weights need no gradient here
        D.requires_grad_(False)
        loss_G = -D(G(noise(B, LATENT))).mean()
        step_G.zero_grad(set_to_none=True)
        loss_G.backward()
        step_G.step()
        D.requires_grad_(True)
        average.update_parameters(G)
        progress("training the WGAN-GP prior", step + 1, settings.steps)
    G.load_state_dict(average.module.state_dict())
    return {"seconds": f"{watch.seconds:.3f}"}
