"""The same attacks and trainings of priors on CPU and CUDA: do they end alike?

    python benchmarks/cuda_parity.py [--device cuda] [--steps 50]

Every attack inverts the same small target with the same prior and the same random numbers (drawn on the CPU) in fp32
on both devices. Rounding differs between devices and grows with the steps, faster with Adam, which divides by small
slopes; tolerances are on the median over reconstructions after ``--steps``: images differ by at most .02 root mean
square (of [0, 1]), the attacker's confidence by at most .02.

Every prior is trained a few steps on the CPU, on CUDA kernel by kernel, and on CUDA replayed as graphs, with
deterministic kernels: the latter two must make the same images bit for bit, the CPU's differ by at most .02.

Exit code 1 when one does not hold, 2 without CUDA.
"""

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor

from attacker.attacks.registry import attack_names, make_attack
from attacker.priors import kplus1, plg_gan, vmi_dcgan, wgan_gp
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference

CPU = torch.device("cpu")
IMAGES, CONFIDENCE = 0.02, 0.02
PRIOR = {"width": 0.25, "steps": 20, "batch_size": 16}
ROTATED = "plgmi"  # trains its prior on rotated views, whose gradient has no deterministic kernel
LABELS = torch.arange(10).repeat_interleave(5)


def inverted(kind: str, device: torch.device, steps: int) -> Reconstructions:
    """Return what attack ``kind`` makes on ``device``; its prior is trained on the CPU, once, then cached."""
    prior = {} if kind == "deepinversion" else {"prior": PRIOR}  # it optimises pixels and trains none
    iterations = {"iterations": steps} | ({"feature_iterations": steps} if kind == "ifgmi" else {})
    attack = make_attack({"kind": kind} | prior | iterations, "attacks.parity", "benchmark")
    images = torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    public = PublicSet(images.contiguous(memory_format=torch.channels_last), "noise")
    model = build("mcnn", 10, 0.5, seed=0)
    attack.prior(Target(for_inference(model), "parity", 0, CPU), public, 0, CPU)
    target = Target(for_inference(model, device), "parity", 0, device)
    prior = attack.prior(target, public, 0, device)
    return attack.invert(target, prior, public, LABELS, torch.Generator().manual_seed(1))


def made(kind: str, device: torch.device, graphs: bool) -> Tensor:
    """Return images of the prior of attack ``kind``, trained on ``device``."""
    prior = PRIOR | ({"shipped": False} if kind in ("gmi", "ifgmi") else {})
    attack = make_attack(
        {"kind": kind, "prior": prior, "deterministic": kind != ROTATED}, "attacks.parity", "benchmark"
    )
    images = torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    public = PublicSet(images.contiguous(memory_format=torch.channels_last), f"noise on {device}, {graphs}")
    target = Target(for_inference(build("mcnn", 10, 0.5, seed=0), device), "parity", 0, device)
    with ExitStack() as stack:
        for module in () if graphs else (kplus1, plg_gan, vmi_dcgan, wgan_gp):
            stack.enter_context(patch.object(module, "replayed", lambda step, device: step))
        trained = attack.prior(target, public, 0, device)
    return trained.sample(64, torch.Generator().manual_seed(1), device).cpu()


def priors_alike(device: torch.device) -> bool:
    """Compare every training; say what came out."""
    held = True
    for kind in ("gmi", "kedmi", "vmi", "plgmi"):
        cpu, kernels, graphs = made(kind, CPU, False), made(kind, device, False), made(kind, device, True)
        apart = float((cpu - graphs).square().flatten(1).mean(1).sqrt().median())
        same = torch.equal(kernels, graphs) or (kind == ROTATED and torch.allclose(kernels, graphs, atol=IMAGES))
        held &= same and apart <= IMAGES
        print(
            f"prior of {kind:<6} replayed {'the same' if same else 'DIFFERENT'}, from the CPU's {apart:.2e}", flush=True
        )
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
            images = float((one.images - other.images).square().flatten(1).mean(1).sqrt().median())
            confidence = float((one.confidence - other.confidence).abs().median())
            alike = images <= IMAGES and confidence <= CONFIDENCE
            held &= alike
            print(
                f"{kind:<13} images {images:.2e}  confidence {confidence:.2e}  {'alike' if alike else 'DIFFERENT'}",
                flush=True,
            )
        held &= priors_alike(torch.device(chosen.device))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
