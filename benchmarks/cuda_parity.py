"""The same attacks on CPU and CUDA: do they end alike?

    python benchmarks/cuda_parity.py [--device cuda] [--steps 50]

Every attack inverts the same small target with the same prior and the same random numbers (drawn on the CPU) in fp32
on both devices. Rounding differs between devices and grows with the steps, faster with Adam, which divides by small
slopes; tolerances are on the median over reconstructions after ``--steps``: images differ by at most .02 root mean
square (of [0, 1]), the attacker's confidence by at most .02. Exit code 1 when one does not hold, 2 without CUDA.
"""

import argparse
import os
import sys
import tempfile

import torch

from attacker.attacks.registry import attack_names, make_attack
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference

IMAGES, CONFIDENCE = 0.02, 0.02
PRIOR = {"width": 0.25, "steps": 20, "batch_size": 16}
LABELS = torch.arange(10).repeat_interleave(5)


def inverted(kind: str, device: torch.device, steps: int) -> Reconstructions:
    """Return what attack ``kind`` makes on ``device``; its prior is trained on the CPU, once, then cached."""
    iterations = {"iterations": steps} | ({"feature_iterations": steps} if kind == "ifgmi" else {})
    attack = make_attack({"kind": kind, "prior": PRIOR} | iterations, "attacks.parity", "benchmark")
    images = torch.randint(256, (256, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    public = PublicSet(images.contiguous(memory_format=torch.channels_last), "noise")
    model = build("mcnn", 10, 0.5, seed=0)
    cpu = torch.device("cpu")
    attack.prior(Target(for_inference(model), "parity", 0, cpu), public, 0, cpu)
    target = Target(for_inference(model, device), "parity", 0, device)
    prior = attack.prior(target, public, 0, device)
    return attack.invert(target, prior, public, LABELS, torch.Generator().manual_seed(1))


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
            print(f"{kind:<6} images {images:.2e}  confidence {confidence:.2e}  {'alike' if alike else 'DIFFERENT'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
