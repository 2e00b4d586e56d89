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

from typing import Literal

import torch

from attacker.acceleration.passes import Pass, Steps, agreement, gradients, with_steps
from fedinverse.errors import ConfigError

Compile = Literal["off", "on", "auto"]

AGREE = 0.999  # least median cosine between a compiled gradient and the plain one; fusing changes rounding only
BACKEND = "inductor"


def in_compiled(wanted: Compile, plain: Steps, labels: torch.Tensor, identity: str) -> Steps:
    """Return the steps compiled if ``wanted``; ``Steps.arithmetic`` then says so.

    Raises:
        ConfigError: ``on``, and the check failed.
    """
    kind = plain.target.device.type
    if wanted == "off" or (wanted == "auto" and kind != "cuda"):
        return plain
    mode = "reduce-overhead" if kind == "cuda" else None

    def change(call: Pass) -> Pass:
        fast: Pass = torch.compile(call, backend=BACKEND, mode=mode, dynamic=False)
        return fast

    fast = plain.changed(lambda network: with_steps(network, change), f"{plain.arithmetic}, compiled")
    agreed = agreement(gradients(plain, labels, identity), gradients(fast, labels, identity))
    if agreed >= AGREE:
        return fast
    if wanted == "on":
        raise ConfigError(
            f"'compile' changes this target's gradients: median cosine to the plain ones {agreed:.4f}, "
            f"{AGREE} is needed; use off, or auto, which decides for every target"
        )
    return plain
