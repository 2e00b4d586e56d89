"""Cost of a BiDO training step: plain, published form, ours; interleaved in one process on one thread.

    python benchmarks/bido_step.py [--nets mcnn lenet5] [--batches 60 128] [--steps 15] [--json PATH]

The published form runs on NCHW as the published code does, ours on channels-last. Times are CPU time of the
process, medians over the steps; a step is forward, loss, backward and SGD.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from plain_networks import plain_network
from torch import Tensor

from clients.defences import Defence, make_defence
from fedinverse.models import Classifier, build
from fedinverse.storage import write_json

WARM_UP = 3


def step(model: Classifier, optimizer: torch.optim.Optimizer, defence: Defence, batch: tuple[Tensor, Tensor]) -> float:
    """Take one training step; return its CPU seconds."""
    start = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    loss, _ = defence.loss(model, *batch)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return time.process_time() - start


def measure(net: str, size: int, steps: int) -> dict[str, float]:
    """Return median milliseconds per step of each variant, and the ratios of the goals."""
    variants = {
        "plain_nchw": ("none", {}, torch.contiguous_format),
        "plain": ("none", {}, torch.channels_last),
        "published": ("bido_hsic", {"numerics": "published"}, torch.contiguous_format),
        "ours": ("bido_hsic", {}, torch.channels_last),
        "coco": ("bido_coco", {}, torch.channels_last),
    }
    generator = torch.Generator().manual_seed(0)
    runs = {}
    for name, (defence, table, layout) in variants.items():
        model = build(net, 10, seed=0).train()
        if layout is torch.contiguous_format:
            plain_network(model)
        images = torch.rand((size, *model.input_shape), generator=generator).contiguous(memory_format=layout)
        labels = torch.randint(10, (size,), generator=generator)
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, foreach=True)
        runs[name] = (model, optimizer, make_defence(defence, table, "benchmark"), (images, labels))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + steps):
        for name, run in runs.items():
            seconds = step(*run)
            if turn >= WARM_UP:
                times[name].append(1000 * seconds)
    result = {name: statistics.median(values) for name, values in times.items()}
    result["ours / plain"] = result["ours"] / result["plain"]
    result["coco / plain"] = result["coco"] / result["plain"]
    result["published / plain nchw"] = result["published"] / result["plain_nchw"]
    result["published / ours"] = result["published"] / result["ours"]
    return result


def gradient_errors(net: str, size: int) -> dict[str, float]:
    """Return the relative errors against float64 of the float32 gradients by the hidden taps."""
    generator = torch.Generator().manual_seed(0)
    model = build(net, 10, seed=0).train()
    images = torch.rand((size, *model.input_shape), generator=generator)
    labels = F.one_hot(torch.randint(10, (size,), generator=generator), 10)
    hidden = model.features(images.contiguous(memory_format=torch.channels_last)).taps

    def gradient(numerics: str, dtype: torch.dtype) -> Tensor:
        taps = tuple(tap.detach().to(dtype).requires_grad_() for tap in hidden)
        defence: Any = make_defence("bido_hsic", {"numerics": numerics}, "benchmark")
        total = defence.penalty(images.to(dtype), labels.to(dtype), taps)
        return torch.cat([tap.flatten() for tap in torch.autograd.grad(total, taps)]).double()

    exact = gradient("symmetric", torch.float64)
    return {
        f"{name} gradient error": float((gradient(numerics, torch.float32) - exact).norm() / exact.norm())
        for name, numerics in (("published", "published"), ("ours", "symmetric"))
    }


def main() -> None:
    """Measure, print a table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["mcnn", "lenet5"])
    parser.add_argument("--batches", nargs="+", type=int, default=[60, 128])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for net in chosen.nets:
        for size in chosen.batches:
            row = measure(net, size, chosen.steps) | gradient_errors(net, size)
            table[f"{net} {size}"] = row
            print(f"{net} {size}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    if chosen.json:
        write_json(chosen.json, {"unit": "ms CPU per step; ratios", "steps": chosen.steps, "measured": table})


if __name__ == "__main__":
    main()
