"""Other ways to compute an attack's gradient steps: lower precision and compilation, used only where a check passes.

They change how the passes of generator, critic and target run, never what they mean: only steps that need a gradient
are changed; what is kept and scored is computed in fp32, and so are priors. Before every inversion the gradients on
the very target are compared with those of fp32, computed first and without TF32, and what does not agree is not used.
(The gradients of most networks survive bf16, docs/attacks.md has the measured cosines, but nothing promises it of the
next one.)

| ``precision`` | |
|---|---|
| ``fp32`` | exact; on CUDA without TF32, which PyTorch otherwise takes for convolutions |
| ``tf32``, ``bf16`` | as named; refused where the check fails |
| ``auto`` | the fastest that this device has in hardware and that passes the check |

Compiled, kernels are fused, and on CUDA replayed as CUDA graphs. That is worth it where launching kernels takes longer
than running them: small networks on a fast GPU, many steps. Compiling takes from seconds to minutes and is done again
for every shape of batch. On the CPU it was measured slower than the plain passes (docs/attacks.md), so that ``auto``
leaves them there.

| ``compile`` | |
|---|---|
| ``off`` | never |
| ``on`` | always; refused where the gradients do not agree with the uncompiled ones |
| ``auto`` | on CUDA, where they agree |
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from attacker.losses.identity import IdentityLoss
from attacker.priors.prior import Prior
from attacker.target import Target
from fedinverse.errors import ConfigError
from fedinverse.models import Features
from fedinverse.switches import tf32

Precision = Literal["fp32", "tf32", "bf16", "auto"]
Compile = Literal["off", "on", "auto"]

AGREE = 0.99  # least median cosine between a lowered gradient and the fp32 one
COMPILED_AGREE = 0.999  # the same of a compiled gradient and the plain one; fusing changes rounding only
BACKEND = "inductor"
_COMPILED = 256  # kinds of networks and shapes that a process may compile
_LATENTS = 32  # compared by the check
_PASSES = ("forward", "features", "begin", "advance", "finish")  # what attacks call of networks
Pass = Callable[..., Any]
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Steps:
    """Target and prior as the gradient steps see them, and the ``arithmetic`` of those steps in words."""

    target: Target
    prior: Prior
    arithmetic: str = "fp32"

    def changed(self, change: Callable[[nn.Module], Any], arithmetic: str) -> "Steps":
        """Return the same with ``change`` made to every network."""
        prior, target = self.prior, self.target
        critic = None if prior.critic is None else change(prior.critic)
        earlier = tuple(replace(each, model=change(each.model)) for each in target.earlier)
        return Steps(
            replace(target, model=change(target.model), earlier=earlier),
            replace(prior, generator=change(prior.generator), critic=critic),
            arithmetic,
        )


def with_steps(network: M, change: Callable[[Pass], Pass]) -> M:
    """Return ``network``, its weights shared, whose passes are ``change``d wherever a gradient is wanted."""
    ready = copy.copy(network)
    for name in _PASSES:
        if hasattr(network, name):
            setattr(ready, name, _while_differentiated(getattr(network, name), change))
    return ready


def _while_differentiated(call: Pass, change: Callable[[Pass], Pass]) -> Pass:
    changed = change(call)

    @wraps(call)
    def chosen(*arguments: Any) -> Any:
        return changed(*arguments) if torch.is_grad_enabled() else call(*arguments)

    return chosen


def gradients(steps: Steps, labels: Tensor, identity: str) -> list[Tensor]:
    """Return the gradients [32, d] by 32 latents of the identity loss and, if there is one, of the critic."""
    target, prior = steps.target, steps.prior
    z = torch.randn(_LATENTS, prior.latent, generator=torch.Generator().manual_seed(0)).to(target.device)
    y = labels[torch.arange(_LATENTS) % len(labels)].to(target.device)
    z.requires_grad_(True)
    images = prior.images(z, y)
    values = [IdentityLoss(identity)(target.model.features(images), y)]
    if prior.critic is not None:
        values.append(prior.critic(images))
    return [torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in values]


def agreement(reference: list[Tensor], other: list[Tensor]) -> float:
    """Return the median cosine, in [-1, 1], of two ways' gradients; the lower of the identity loss's and the critic's.

    NaN, of gradients that vanish or overflow, counts as no agreement.
    """
    cosines = [
        torch.nan_to_num(torch.cosine_similarity(a.double(), b.double())).median()
        for a, b in zip(reference, other, strict=True)
    ]
    return float(torch.stack(cosines).min())


@contextmanager
def in_precision(wanted: Precision, exact: Steps, labels: Tensor, identity: str) -> Iterator[Steps]:
    """Yield the steps in ``wanted`` for the time of a block; ``Steps.arithmetic`` says what was taken.

    Args:
        wanted: see the module's table.
        exact: target and prior as they are.
        labels: int64 [N], classes to be inverted.
        identity: the loss whose gradients are compared.

    Raises:
        ConfigError: ``wanted`` is not to be had on the target's device, or fails the check.
    """
    device = exact.target.device
    candidates = _native(device) if wanted == "auto" else [] if wanted == "fp32" else [wanted]
    if "tf32" in candidates and device.type == "cpu":
        raise ConfigError("precision 'tf32' is a CUDA device's; on a CPU use fp32, bf16 or auto")
    for precision in candidates:
        lowered = _lowered(precision, exact)
        agreed = agreement_of(precision, exact, labels, identity)
        if agreed >= AGREE:
            with _arithmetic(precision, device):
                yield lowered
            return
        if wanted != "auto":
            raise ConfigError(
                f"precision '{wanted}' bends this target's gradients: median cosine to fp32 {agreed:.3f}, "
                f"{AGREE} is needed; use fp32, or auto, which decides for every target"
            )
    yield exact


def agreement_of(precision: Precision, exact: Steps, labels: Tensor, identity: str) -> float:
    """Return how well gradients in ``precision`` agree with those of exact fp32: ``agreement``."""
    device = exact.target.device
    with tf32(device, on=False):
        reference = gradients(exact, labels, identity)
    with _arithmetic(precision, device):
        return agreement(reference, gradients(_lowered(precision, exact), labels, identity))


def _arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    return tf32(device, on=True) if precision == "tf32" else nullcontext()


def _lowered(precision: Precision, exact: Steps) -> Steps:
    kind = exact.target.device.type
    return exact.changed(lambda network: network if precision == "tf32" else in_bf16(network, kind), precision)


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
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8", errors="replace") if device.type == "cpu" and cpuinfo.exists() else ""
    # With avx512_bf16 alone, without AMX, a step in bf16 was measured 1.4 times as long as in fp32 (docs/attacks.md).
    return ["bf16"] if "amx_bf16" in flags else []


@contextmanager
def in_compiled(wanted: Compile, plain: Steps, labels: Tensor, identity: str) -> Iterator[Steps]:
    """Yield the steps, compiled if ``wanted``, for the time of a block; ``Steps.arithmetic`` then says so.

    Raises:
        ConfigError: ``on``, and the check failed.
    """
    kind = plain.target.device.type
    if wanted == "off" or (wanted == "auto" and kind != "cuda"):
        yield plain
        return
    import torch._dynamo.config as compiler  # a second of work that nobody else should wait for

    # In bf16 all passes are one function to the compiler, and beyond its limit of eight kinds of networks and shapes
    # the others would run uncompiled, with no more than a line on stderr.
    with compiler.patch(recompile_limit=_COMPILED, fail_on_recompile_limit_hit=True):
        yield _compiled(wanted, plain, labels, identity)


def _compiled(wanted: Compile, plain: Steps, labels: Tensor, identity: str) -> Steps:
    kind = plain.target.device.type
    mode = "reduce-overhead" if kind == "cuda" else None

    def change(call: Pass) -> Pass:
        fast: Pass = torch.compile(call, backend=BACKEND, mode=mode, dynamic=False)
        return fast

    fast = plain.changed(lambda network: with_steps(network, change), f"{plain.arithmetic}, compiled")
    agreed = agreement(gradients(plain, labels, identity), gradients(fast, labels, identity))
    if agreed >= COMPILED_AGREE:
        return fast
    if wanted == "on":
        raise ConfigError(
            f"'compile' changes this target's gradients: median cosine to the plain ones {agreed:.4f}, "
            f"{COMPILED_AGREE} is needed; use off, or auto, which decides for every target"
        )
    return plain
