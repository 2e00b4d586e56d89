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

from attacker.priors.dcgan import Critic, Generator
from attacker.priors.gan import CriticStepsSettings, averaged, gan_adam
from attacker.priors.prior import LATENT, PriorTrainer, Training
from attacker.replayed import replayed
from fedinverse.optimisers import descend


class WganGpSettings(CriticStepsSettings):
    """Training of the WGAN-GP prior. The papers' values: width 1, ~47,000 steps on MNIST, ~140,000 on CelebA."""

    penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")
    shipped: bool = Field(
        True, description="take the package's own prior where one was made with these settings and images"
    )


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Return E (||grad D(x^)||_2 - 1)^2 with x^ = mix * real + (1 - mix) * fake; ``mix`` [N, 1, 1, 1] in [0, 1]."""
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norms: Tensor = slope.flatten(1).norm(2, dim=1)
    return (norms - 1).square().mean()


class WganGp(PriorTrainer):
    """Trains generator and critic against each other."""

    name = "wgan-gp"
    version = 3
    kept = ("generator", "critic")
    settings: WganGpSettings

    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return DCGAN's pair."""
        del classes
        width = self.settings.width
        return nn.ModuleDict({"generator": Generator(shape, width), "critic": Critic(shape, width)})

    def critic(self, nets: nn.ModuleDict) -> nn.Module:
        """Return D: its score is what the attack calls realness."""
        return nets["critic"]

    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Train in place; leave the averaged generator in ``nets["generator"]``."""
        settings, B = self.settings, self.settings.batch_size
        G, D = nets["generator"].train(), nets["critic"].train()
        average = averaged(G)
        step_G, step_D = gan_adam(G, settings.lr), gan_adam(D, settings.lr)
        networks, optimisers = {**nets, "average": average}, {"step_G": step_G, "step_D": step_D}

        def criticise(rows: Tensor, fake: Tensor, mix: Tensor) -> None:  # (1)
            real = data.real(rows)
            scores = D(torch.cat([real, fake]))
            loss_D = scores[B:].mean() - scores[:B].mean()
            descend(step_D, loss_D + settings.penalty * gradient_penalty(D, real, fake, mix))

        def generate(z: Tensor) -> None:  # (2); the critic's weights need no gradient here
            D.requires_grad_(False)
            descend(step_G, -D(G(z)).mean())
            D.requires_grad_(True)

        criticise, generate = replayed(criticise, data.device), replayed(generate, data.device)
        for _ in data.steps(settings.steps, "training the WGAN-GP prior", networks, optimisers):
            with torch.no_grad():
                fakes = G(data.noise(settings.critic_steps * B, LATENT)).split(B)  # all the critic's in one pass
            for fake, rows in zip(fakes, data.rows(settings.critic_steps, B), strict=True):
                criticise(rows, fake, data.uniform(B, 1, 1, 1))
            generate(data.noise(B, LATENT))
            average.update_parameters(G)
        G.load_state_dict(average.module.state_dict())
