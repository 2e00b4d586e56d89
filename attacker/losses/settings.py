"""The settings that every attack has."""

from pydantic import Field

from attacker.acceleration import Compile, Precision
from attacker.losses.diversity import DiversitySettings
from attacker.losses.identity import IdentityName
from attacker.losses.students import DistillationSettings
from fedinverse.config import Section


class InversionSettings(Section):
    """What every attack can be told."""

    generator: str = Field("", description="key of a generator added with 'fedinverse prior add', in the prior's place")
    identity_loss: IdentityName = Field(
        "ce", description="ce (published), logit, max_margin, poincare or package.module:name"
    )
    augment: int = Field(0, ge=0, description="average the identity loss over this many augmented views; 0: off")
    captures: int = Field(
        1,
        ge=1,
        description="invert this many captured models together: the last ones of different weights, up to the round",
    )
    students: int = Field(0, ge=0, description="invert this many distilled students with the target; 0: off")
    distillation: DistillationSettings = Field(DistillationSettings(), description="how students are distilled")
    noise_draws: int = Field(
        0,
        ge=0,
        description="average the identity loss over this many draws of a VIB head's noise; 0: its mean",
    )
    diversity: DiversitySettings = Field(DiversitySettings(), description="FedInverse's diversity regulariser")
    precision: Precision = Field("fp32", description="of gradient steps: fp32, tf32, bf16 or auto; the latter checked")
    compile: Compile = Field(
        "off", description="gradient steps through torch.compile: off, on, or auto (CUDA); checked"
    )
    deterministic: bool = Field(
        False,
        description="the same images from the same seed also on CUDA: deterministic kernels only, which are slower; "
        "refused with 'augment' there, whose gradient has none",
    )
    max_batch: int = Field(1024, ge=1, description="memory budget: at most this many images at once")

    @property
    def samples(self) -> int:
        """Images that a class contributes to a step; attacks that fit one distribution per class say more."""
        return 1

    @property
    def fits(self) -> int:
        """How many reconstructions fit the memory budget when each has ``augment`` views."""
        return max(1, self.max_batch // max(1, self.augment))
