"""What inversions and priors take on a CUDA device, and the share of its measured rate that they reach.

    python benchmarks/cuda_speed.py [--device cuda] [--parts priors inversion compiled] [--steps 20] [--json PATH]

**Inversion**: KED-MI of 300 identities in one batch, GMI of 300 identities with ten restarts, 64 pixels, VGG16 of 1,000
classes, published widths, 1,500 steps; **priors**: the K+1 GAN and WGAN-GP at 64 pixels, batch 64, 9,400 generator
steps, which are about 100 epochs of 30,000 images. Networks are untrained, since what they compute makes no difference
to the time; the check that a lowered precision must pass on a real target is left out.

A few steps are timed, between two waits for the device, and the whole is worked out from them. The plain loop is that
of ``inversion_speed.py`` and ``gan_speed.py``, in PyTorch's defaults (convolutions in TF32). The share is of the rate
of a 3x3 convolution in the precision of the steps, by the FLOPs that a step needs with frozen weights.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from gan_speed import BATCH, NETS, TITLES, kernel_by_kernel, plain_steps, trainer_of
from inversion_speed import BLOCK, Case
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import attacker.acceleration
from attacker.attacks.registry import make_attack
from attacker.priors.prior import trained_prior
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference
from fedinverse.storage import write_json
from fedinverse.switches import tf32

SIZE, STEPS = 64, 1500
ROWS = {"KED-MI": ("kedmi", 300), "GMI": ("gmi", 3000)}
GAN_STEPS, PUBLIC = 9_400, 3_000  # how many public images there are makes no difference to a step
WARM_UP = 8
PRECISIONS = ("fp32", "tf32", "bf16")
LAYOUTS = torch.contiguous_format, torch.channels_last
COMPILED = ("KED-MI", "tf32"), ("KED-MI", "bf16"), ("GMI", "bf16")  # compiling takes longer than all the rest


class Lap:
    """A ``Progress`` that times the steps after the first ``WARM_UP`` of the work called ``what``, device included."""

    def __init__(self, what: str, last: int) -> None:
        self._what, self._last, self._start, self.seconds = what, last, 0.0, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Look at the clock after the warm-up and after the last step."""
        if what != self._what or done not in (WARM_UP, self._last):
            return
        torch.cuda.synchronize()
        if done == WARM_UP:
            self._start = time.perf_counter()
        else:
            self.seconds = (time.perf_counter() - self._start) / (self._last - WARM_UP)


def timed(work: Callable[[], Any], turns: int = 10) -> float:
    """Return the seconds of one call of ``work``."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(turns):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / turns


def rates(device: torch.device) -> dict[str, float]:
    """Return the FLOP/s of a 3x3 convolution of 256 channels on 300 images of 32 pixels, by precision.

    The better of both layouts: in fp32, for which cuDNN has few kernels, they are far apart.
    """
    return {name: max(_rate(device, name, layout) for layout in LAYOUTS) for name in PRECISIONS}


def _rate(device: torch.device, precision: str, layout: torch.memory_format) -> float:
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    images = torch.randn(300, 256, 32, 32, device=device, dtype=kind).contiguous(memory_format=layout)
    kernel = torch.randn(256, 256, 3, 3, device=device, dtype=kind).contiguous(memory_format=layout)
    with tf32(device, on=precision == "tf32"):
        seconds = timed(lambda: F.conv2d(images, kernel, padding=1))
    return 2 * 300 * 256 * 32 * 32 * 256 * 9 / seconds


def seconds_of_plain(steps: Iterator[None], count: int) -> float:
    """Return the seconds of a step of a plain loop."""
    for _ in range(WARM_UP):
        next(steps)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def inversion(title: str, precision: str, compiled: bool, device: torch.device, steps: int) -> float:
    """Return the seconds of one step of all rows, in as many batches as our default asks for."""
    kind, rows = ROWS[title]
    case = Case(kind, SIZE, False, device)
    asked = {
        "kind": kind,
        "iterations": WARM_UP + steps,
        "precision": precision,
        "compile": "on" if compiled else "off",
    }
    attack = make_attack(asked, "attacks.speed", "benchmark")
    batch = min(rows, attack.settings.max_batch)
    labels = torch.arange(300).repeat(rows // 300)[:batch]
    lap = Lap("optimising", WARM_UP + steps)
    attack.invert(case.target, case.prior, case.public, labels, torch.Generator().manual_seed(0), lap)
    return lap.seconds * rows / batch


def prior(kind: str, precision: str, graph: bool, device: torch.device, steps: int) -> float:
    """Return the seconds of one generator step of our training."""
    few = torch.randint(256, (100, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = few.repeat(PUBLIC // 100, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    public = PublicSet(images, f"noise-{kind}-{precision}-{graph}")
    target = Target(for_inference(build(*NETS[SIZE], seed=0), device), "untrained", 0, device)
    lap = Lap(TITLES[kind], WARM_UP + steps)
    trainer = trainer_of(kind, steps=WARM_UP + steps, precision=precision)
    with nullcontext() if graph else kernel_by_kernel():
        trained_prior(trainer, target, public, 0, device, lap)
    return lap.seconds


class Flops(TorchDispatchMode):
    """Counts the FLOPs of a block; PyTorch's own counter does not know gradients of gradients."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def needed(kind: str, device: torch.device) -> float:
    """Return the FLOPs of one generator step, its five critic steps included."""

    def of(steps: int) -> int:
        public = PublicSet(torch.zeros(BATCH, 3, SIZE, SIZE, dtype=torch.uint8), f"flops-{kind}-{steps}")
        target = Target(for_inference(build(*NETS[SIZE], seed=0), device), "untrained", 0, device)
        with Flops() as counter:
            trained_prior(trainer_of(kind, steps=steps), target, public, 0, device)
        return counter.total

    return float(of(2) - of(1))


Row = dict[str, Any]


def row(what: str, how: str, seconds: float, total: int, flops: float, rate: float) -> Row:
    """Return a line of the table, printed at once."""
    line = {"what": what, "how": how, "ms": 1000 * seconds, "whole s": seconds * total}
    line["share"] = 100 * flops / seconds / rate
    print(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else str(value) for name, value in line.items()))
    sys.stdout.flush()
    return line


def inversions(device: torch.device, peak: dict[str, float], steps: int) -> list[Row]:
    """Time the attacks."""
    lines = []
    for title, (kind, rows) in ROWS.items():
        flops = float(Case(kind, SIZE, False).needed() * rows)
        plain = seconds_of_plain(Case(kind, SIZE, False, device).plain_steps(), steps) * rows / BLOCK
        lines.append(row(title, "plain loop", plain, STEPS, flops, peak["tf32"]))
        for precision in PRECISIONS:
            seconds = inversion(title, precision, False, device, steps)
            lines.append(row(title, precision, seconds, STEPS, flops, peak[precision]))
    return lines


def compiled(device: torch.device, peak: dict[str, float], steps: int) -> list[Row]:
    """Time attacks whose steps are compiled."""
    lines = []
    for title, precision in COMPILED:
        flops = float(Case(ROWS[title][0], SIZE, False).needed() * ROWS[title][1])
        seconds = inversion(title, precision, True, device, steps)
        lines.append(row(title, f"{precision}, compiled", seconds, STEPS, flops, peak[precision]))
    return lines


def priors(device: torch.device, peak: dict[str, float], steps: int) -> list[Row]:
    """Time the trainings."""
    lines = []
    for kind in TITLES:
        flops = needed(kind, device)
        plain = seconds_of_plain(plain_steps(kind, SIZE, device), steps)
        lines.append(row(kind, "plain loop", plain, GAN_STEPS, flops, peak["tf32"]))
        for precision in ("fp32", "tf32"):
            for graph in (False, True):
                seconds = prior(kind, precision, graph, device, steps)
                how = precision + (", one graph a step" if graph else ", kernel by kernel")
                lines.append(row(kind, how, seconds, GAN_STEPS, flops, peak[precision]))
    return lines


PARTS = {"priors": priors, "inversion": inversions, "compiled": compiled}


def main() -> int:
    """Measure, print, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:1")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: this machine has no CUDA device", file=sys.stderr)
        return 2
    device = torch.device(chosen.device)
    peak = rates(device)
    about = f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__.split('+')[0]}"
    print(about, {name: f"{rate / 1e12:.0f} TFLOP/s" for name, rate in peak.items()}, flush=True)
    lines: list[Row] = []
    with tempfile.TemporaryDirectory() as cache, patch.multiple(attacker.acceleration, AGREE=-1.0, COMPILED_AGREE=-1.0):
        os.environ["FEDINVERSE_CACHE"] = cache
        for part in chosen.parts:
            lines += PARTS[part](device, peak, chosen.steps)
    if chosen.json:
        write_json(chosen.json, {"device": about, "rates": peak, "measured": lines})
    return 0


if __name__ == "__main__":
    sys.exit(main())
