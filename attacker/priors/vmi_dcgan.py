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

from attacker.priors.dcgan import Critic, Generator
from attacker.priors.gan import GanSettings, averaged, baked, gan_adam, normalise
from attacker.priors.prior import LATENT, PriorTrainer, Training
from attacker.replayed import replayed
from fedinverse.optimisers import descend


class VmiDcganSettings(GanSettings):
    """Training of VMI's DCGAN; each generator step comes after one of the discriminator."""

    input_noise: float = Field(0.1, ge=0, description="standard deviation of the noise on D's input")


class VmiDcgan(PriorTrainer):
    """Trains generator and discriminator with noisy inputs."""

    name = "vmi-dcgan"
    version = 3
    settings: VmiDcganSettings

    def networks(self, shape: tuple[int, int, int], classes: int) -> nn.ModuleDict:
        """Return DCGAN's pair; only the generator is kept."""
        del classes
        width = self.settings.width
        return nn.ModuleDict({"generator": Generator(shape, width), "discriminator": Critic(shape, width)})

    def train(self, nets: nn.ModuleDict, data: Training) -> None:
        """Train; give the generator the averaged weights, their spectral norm divided out."""
        settings, B = self.settings, self.settings.batch_size
        G, D = copy.deepcopy(nets["generator"]), nets["discriminator"]
        assert isinstance(G, Generator)
        normalise(G.train(), free=G.paint)
        normalise(D.train())
        average = averaged(G)
        step_G, step_D = gan_adam(G, settings.lr), gan_adam(D, settings.lr)
        networks = {"generator": G, "discriminator": D, "average": average}
        optimisers = {"step_G": step_G, "step_D": step_D}

        def discriminate(rows: Tensor, fake: Tensor, noise: Tensor) -> None:
            scores = D(torch.cat([data.real(rows), fake]) + settings.input_noise * noise)
            descend(step_D, F.softplus(-scores[:B]).mean() + F.softplus(scores[B:]).mean())

        def generate(z: Tensor, noise: Tensor) -> None:
            D.requires_grad_(False)
            descend(step_G, F.softplus(-D(G(z) + settings.input_noise * noise)).mean())
            D.requires_grad_(True)

        discriminate, generate = replayed(discriminate, data.device), replayed(generate, data.device)
        for _ in data.steps(settings.steps, "training VMI's prior", networks, optimisers):
            rows = data.rows(B)
            with torch.no_grad():
                fake = G(data.noise(B, LATENT))
            discriminate(rows, fake, data.noise(2 * B, *fake.shape[1:]))
            generate(data.noise(B, LATENT), data.noise(*fake.shape))
            average.update_parameters(G)
        nets["generator"].load_state_dict(baked(average.module))
