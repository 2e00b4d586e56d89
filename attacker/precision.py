"""The arithmetic of an inversion's gradient steps: bf16 or TF32 only where a check on the very target passes.

The gradients of most networks survive bf16 (docs/attacks.md has the measured cosines), but nothing promises it of the
next one. So the gradients by the latent, of the identity loss and of the critic, are compared on a few latents before
every inversion, and what does not agree is not used. Only steps that need a gradient are lowered:
what is kept and scored is computed in fp32.

| ``precision`` | |
|---|---|
| ``fp32`` | exact; on CUDA without TF32, which PyTorch otherwise takes for convolutions |
| ``tf32``, ``bf16`` | as named; refused where the check fails |
| ``auto`` | the fastest that this device has in hardware and that passes the check |
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attacker.attack import Target
from attacker.identity import IdentityLoss, IdentityName
from attacker.priors.prior import Prior
from fedinverse.errors import ConfigError
from fedinverse.models import Features

Precision = Literal["fp32", "tf32", "bf16", "auto"]
M = TypeVar("M", bound=nn.Module)

AGREE = 0.99  # least median cosine between a lowered gradient and the fp32 one
_LATENTS = 32  # compared by the check
_PASSES = ("forward", "features", "begin", "advance", "finish")  # what attacks call of networks


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
    """Return the median cosine of lowered and fp32 gradients by the latent; the lower of identity loss's and critic's.

    NaN, of gradients that vanish or overflow, counts as no agreement.
    """
    z = torch.randn(_LATENTS, prior.latent, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = labels.to(target.device)[torch.arange(_LATENTS, device=target.device) % len(labels)]
    exact = _slopes(target, prior, z, y, identity)
    lowered = _slopes(*_lowered(precision, target, prior), z, y, identity)
    cosines = [
        torch.nan_to_num(torch.cosine_similarity(a.double(), b.double())).median()
        for a, b in zip(exact, lowered, strict=True)
    ]
    return float(torch.stack(cosines).min())


def _slopes(target: Target, prior: Prior, z: Tensor, y: Tensor, identity: IdentityName) -> list[Tensor]:
    """Return the gradients [N, d] of the identity loss and, if there is one, of the critic."""
    z = z.clone().requires_grad_(True)
    images = prior.generator(z)
    seen = target.model.features(images)
    loss = IdentityLoss(identity, torch.zeros_like(seen.penultimate), 0.0)(seen, y)
    values = [loss] if prior.critic is None else [loss, prior.critic(images)]
    return [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in values]


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
    ready = copy.copy(network)
    for name in _PASSES:
        if hasattr(network, name):
            setattr(ready, name, _autocast(getattr(network, name), device))
    return ready


def _autocast(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    @wraps(call)
    def lowered(*arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return call(*arguments)
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
