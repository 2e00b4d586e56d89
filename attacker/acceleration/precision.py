"""The arithmetic of an inversion's gradient steps: bf16 or TF32 only where a check on the very target passes.

The gradients of most networks survive bf16 (docs/attacks.md has the measured cosines), but nothing promises it of the
next one. So they are compared with those of fp32 before every inversion (``passes``), and what does not agree
is not used. Only steps that need a gradient are lowered: what is kept and scored is computed in fp32.

| ``precision`` | |
|---|---|
| ``fp32`` | exact; on CUDA without TF32, which PyTorch otherwise takes for convolutions |
| ``tf32``, ``bf16`` | as named; refused where the check fails |
| ``auto`` | the fastest that this device has in hardware and that passes the check |
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attacker.acceleration.passes import gradient_agreement, with_steps
from attacker.attacks.attack import Target
from attacker.losses.identity import IdentityName
from attacker.priors.prior import Prior
from fedinverse.errors import ConfigError
from fedinverse.models import Features

Precision = Literal["fp32", "tf32", "bf16", "auto"]
M = TypeVar("M", bound=nn.Module)

AGREE = 0.99  # least median cosine between a lowered gradient and the fp32 one


def in_precision(
    wanted: Precision, target: Target, prior: Prior, labels: Tensor, identity: IdentityName
) -> tuple[Target, Prior]:
    """Return target and prior whose gradient steps use ``wanted``; ``Target.precision`` says what was taken.

    On CUDA this sets the process's TF32 switches.

    Raises:
        ConfigError: ``wanted`` is not to be had on the target's device, or fails the check.
    """
    device = target.device
    _tf32(device, on=False)
    if wanted == "fp32":
        return target, prior
    for precision in _native(device) if wanted == "auto" else [wanted]:
        if precision == "tf32" and device.type != "cuda":
            raise ConfigError("precision 'tf32' is a CUDA device's; on a CPU use fp32, bf16 or auto")
        agreed = agreement(precision, target, prior, labels, identity)
        if agreed >= AGREE:
            return _lowered(precision, target, prior)
        _tf32(device, on=False)
        if wanted != "auto":
            raise ConfigError(
                f"precision '{wanted}' bends this target's gradients: median cosine to fp32 {agreed:.3f}, "
                f"{AGREE} is needed; use fp32, or auto, which decides for every target"
            )
    return target, prior


def agreement(precision: Precision, target: Target, prior: Prior, labels: Tensor, identity: IdentityName) -> float:
    """Return how well lowered and fp32 gradients agree: ``attacker.acceleration.passes.gradient_agreement``."""
    return gradient_agreement((target, prior), _lowered(precision, target, prior), labels, identity)


def _lowered(precision: Precision, target: Target, prior: Prior) -> tuple[Target, Prior]:
    if precision == "tf32":
        _tf32(target.device, on=True)
        return replace(target, precision=precision), prior
    kind = target.device.type
    critic = None if prior.critic is None else in_bf16(prior.critic, kind)
    model = in_bf16(target.model, kind)
    lowered = replace(prior, generator=in_bf16(prior.generator, kind), critic=critic)
    return replace(target, model=model, precision=precision), lowered


def in_bf16(network: M, device: str) -> M:
    """Return ``network``, its weights shared, computing in bf16 wherever a gradient is wanted; it returns fp32."""
    return with_steps(network, lambda call: _autocast(call, device))


def _autocast(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    def lowered(*arguments: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            result = call(*arguments)
        if isinstance(result, Features):
            return Features(result.taps, result.penultimate.float(), result.logits.float())
        return result.float()

    return lowered


def _native(device: torch.device) -> list[Precision]:
    """Return what the device has in hardware besides fp32, fastest first."""
    if device.type == "cuda":
        return ["bf16", "tf32"] if torch.cuda.get_device_capability(device) >= (8, 0) else []
    flags = Path("/proc/cpuinfo")
    told = flags.read_text() if flags.exists() else ""
    return ["bf16"] if "avx512_bf16" in told or "amx_bf16" in told else []


def _tf32(device: torch.device, *, on: bool) -> None:
    if device.type == "cuda":
        precision = "tf32" if on else "ieee"
        torch.backends.cuda.matmul.fp32_precision = precision
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
