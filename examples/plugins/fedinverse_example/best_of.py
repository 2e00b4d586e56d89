"""Best of N: no optimisation. Of N images of the prior, each class gets those that the target is surest of.

max_i  p_T(y | G(z_i)),  z_1 ... z_N ~ N(0, I)

The least an attacker can do with a captured model, and so a yardstick for attacks that optimise.
"""

from pydantic import Field
from torch import Tensor

from attacker.attacks.attack import Attack
from attacker.attacks.case import Case
from attacker.losses.settings import InversionSettings
from attacker.priors.wgan_gp import WganGp, WganGpSettings


class BestOfSettings(InversionSettings):
    """How many candidates, and of which prior."""

    prior: WganGpSettings = Field(WganGpSettings(), description="training of the WGAN-GP prior")
    candidates: int = Field(200, ge=1, description="N, images drawn once and scored for every class")


class BestOf(Attack):
    """Chooses among unoptimised images."""

    recipe = WganGp
    Settings = BestOfSettings
    settings: BestOfSettings

    def optimise(self, case: Case) -> Tensor:
        """Return one latent per label, the r-th restart of a class its r-th best."""
        return case.start(self.settings.candidates)
