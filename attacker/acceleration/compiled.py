"""An inversion's gradient steps through ``torch.compile``: fused kernels, on CUDA replayed as CUDA graphs.

Worth it where launching kernels takes longer than running them: small networks on a fast GPU, many steps. Compiling
takes from seconds to minutes and is done again for every shape of batch. On the CPU it was measured slower than the
plain passes (docs/attacks.md), so that ``auto`` leaves them there.

| ``compile`` | |
|---|---|
| ``off`` | never |
| ``on`` | always; refused where the gradients do not agree with the uncompiled ones |
| ``auto`` | on CUDA, where they agree |
"""

from dataclasses import replace
from typing import Literal

import torch

from attacker.acceleration.passes import Pass, gradient_agreement, with_steps
from attacker.attacks.attack import Target
from attacker.losses.identity import IdentityName
from attacker.priors.prior import Prior
from fedinverse.errors import ConfigError

Compile = Literal["off", "on", "auto"]

AGREE = 0.999  # least median cosine between a compiled gradient and the plain one; fusing changes rounding only
BACKEND = "inductor"


def in_compiled(
    wanted: Compile, target: Target, prior: Prior, labels: torch.Tensor, identity: IdentityName
) -> tuple[Target, Prior]:
    """Return target and prior whose gradient steps are compiled if ``wanted``; ``Target.precision`` then says so.

    Raises:
        ConfigError: ``on``, and the check failed.
    """
    if wanted == "off" or (wanted == "auto" and target.device.type != "cuda"):
        return target, prior
    mode = "reduce-overhead" if target.device.type == "cuda" else None

    def change(call: Pass) -> Pass:
        fast: Pass = torch.compile(call, backend=BACKEND, mode=mode, dynamic=False)
        return fast

    critic = None if prior.critic is None else with_steps(prior.critic, change)
    fast_prior = replace(prior, generator=with_steps(prior.generator, change), critic=critic)
    model = with_steps(target.model, change)
    fast_target = replace(target, model=model, precision=f"{target.precision}, compiled")
    agreed = gradient_agreement((target, prior), (fast_target, fast_prior), labels, identity)
    if agreed >= AGREE:
        return fast_target, fast_prior
    if wanted == "on":
        raise ConfigError(
            f"'compile' changes this target's gradients: median cosine to the plain ones {agreed:.4f}, "
            f"{AGREE} is needed; use off, or auto, which decides for every target"
        )
    return target, prior
