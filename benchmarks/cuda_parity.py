"""The same attacks and trainings of priors on CPU and CUDA: do they end alike?

    python benchmarks/cuda_parity.py [--device cuda] [--steps 50]

Every attack inverts the same small target with the same prior and the same random numbers (drawn on the CPU) in fp32
on both devices. Rounding differs between devices and grows with the steps, faster with Adam, which divides by small
slopes; tolerances are on the median over reconstructions after ``--steps``: images differ by at most .02 root mean
square (of [0, 1]), the attacker's confidence by at most .02.

Every prior is trained a few steps on the CPU, on CUDA kernel by kernel, and on CUDA replayed as graphs: the images that
the three make of the same latents must be as close. Last, every attack with ``deterministic = true`` that CUDA allows
runs twice, its prior's training included, and must end the same bit for bit.

Exit code 1 when one does not hold, 2 without CUDA.
"""

import argparse
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from gan_speed import kernel_by_kernel
from torch import Tensor

from attacker.attacks.registry import attack_names, make_attack
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference

CPU = torch.device("cpu")
IMAGES, CONFIDENCE = 0.02, 0.02
PRIOR = {"width": 0.25, "steps": 20, "batch_size": 16}
LABELS = torch.arange(10).repeat_interleave(5)


def table(kind: str, steps: int) -> dict[str, Any]:
    """Return the table of attack ``kind``."""
    if kind == "deepinversion":  # it optimises pixels and has no prior
        return {"kind": kind, "iterations": steps}
    shipped = {"shipped": False} if kind in ("gmi", "ifgmi") else {}
    features = {"feature_iterations": steps} if kind == "ifgmi" else {}
    return {"kind": kind, "iterations": steps, "prior": PRIOR | shipped} | features


def inverted(kind: str, device: torch.device, steps: int) -> Reconstructions:
    """Return what attack ``kind`` makes on ``device``; its prior is trained on the CPU, once, then cached."""
    attack = make_attack(table(kind, steps), "attacks.parity", "benchmark")
    public, model = noise("noise"), build("mcnn", 10, 0.5, seed=0)
    attack.prior(Target(for_inference(model), "parity", 0, CPU), public, 0, CPU)
    target = Target(for_inference(model, device), "parity", 0, device)
    prior = attack.prior(target, public, 0, device)
    return attack.invert(target, prior, public, LABELS, torch.Generator().manual_seed(1))


def noise(name: str) -> PublicSet:
    """Return public images; ``name`` is part of the keys of what is trained on them."""
    images = torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return PublicSet(images.contiguous(memory_format=torch.channels_last), name)


def made(kind: str, device: torch.device, graphs: bool) -> Tensor:
    """Return images of the prior of attack ``kind``, trained on ``device``."""
    attack = make_attack(table(kind, 1), "attacks.parity", "benchmark")
    target = Target(for_inference(build("mcnn", 10, 0.5, seed=0), device), "parity", 0, device)
    with nullcontext() if graphs else kernel_by_kernel():
        trained = attack.prior(target, noise(f"{device}, {graphs}"), 0, device)
    return trained.sample(64, torch.Generator().manual_seed(1), device).cpu()


def apart(one: Tensor, other: Tensor) -> float:
    """Return the median over images of their root mean square difference."""
    return float((one - other).square().flatten(1).mean(1).sqrt().median())


def priors_alike(device: torch.device) -> bool:
    """Compare every training; say what came out."""
    held = True
    for kind in ("gmi", "kedmi", "vmi", "plgmi"):
        cpu, kernels, graphs = made(kind, CPU, False), made(kind, device, False), made(kind, device, True)
        alike = max(apart(cpu, graphs), apart(kernels, graphs)) <= IMAGES
        held &= alike
        distances = f"from kernel by kernel {apart(kernels, graphs):.2e}  from the CPU's {apart(cpu, graphs):.2e}"
        print(f"prior of {kind:<6} {distances}  {'alike' if alike else 'DIFFERENT'}", flush=True)
    return held


def twice_the_same(device: torch.device, steps: int) -> bool:
    """Run every deterministic attack twice; say what came out."""
    held = True
    for kind in attack_names():
        if kind == "plgmi":  # its prior learns from rotated views, whose gradient has no deterministic kernel
            continue
        images = []
        for turn in ("once", "twice"):
            os.environ["FEDINVERSE_CACHE"] = str(Path(os.environ["FEDINVERSE_CACHE"]) / turn)
            attack = make_attack(
                table(kind, steps) | {"deterministic": True, "augment": 0}, "attacks.parity", "benchmark"
            )
            target = Target(for_inference(build("mcnn", 10, 0.5, seed=0), device), "parity", 0, device)
            public = noise("twice")
            prior = attack.prior(target, public, 0, device)
            images.append(attack.invert(target, prior, public, LABELS, torch.Generator().manual_seed(1)).images)
        same = torch.equal(*images)
        held &= same
        print(f"{kind:<13} twice {'the same' if same else f'DIFFERENT, {apart(*images):.2e}'}", flush=True)
    return held


def main() -> int:
    """Compare every attack; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:1")
    parser.add_argument("--steps", type=int, default=50, help="optimisation steps")
    chosen = parser.parse_args()
    if torch.device(chosen.device).type == "cuda" and not torch.cuda.is_available():
        print("error: this machine has no CUDA device; parity can only be measured beside one", file=sys.stderr)
        return 2
    held = True
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FEDINVERSE_CACHE"] = cache
        for kind in attack_names():
            one, other = (inverted(kind, torch.device(name), chosen.steps) for name in ("cpu", chosen.device))
            images = apart(one.images, other.images)
            confidence = float((one.confidence - other.confidence).abs().median())
            alike = images <= IMAGES and confidence <= CONFIDENCE
            held &= alike
            print(
                f"{kind:<13} images {images:.2e}  confidence {confidence:.2e}  {'alike' if alike else 'DIFFERENT'}",
                flush=True,
            )
        held &= priors_alike(torch.device(chosen.device))
        held &= twice_the_same(torch.device(chosen.device), chosen.steps)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
