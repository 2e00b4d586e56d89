"""Cost of a BiDO training step: plain, published form, ours; interleaved in one process on one thread.

    python benchmarks/bido_step.py [--nets lenet5 mcnn scnn] [--batches 60 128] [--steps 15] [--json PATH] [--publish]

The published form and its plain step run as published code does: NCHW, LeakyReLU before pooling, the C library's
memory as it comes. Ours run as our clients do. Each in a process of its own with one thread, turn and turn about; CPU
time, medians over the steps; a step is forward, loss, backward and SGD.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import Turn, medians_apart
from plain_networks import plain_network
from tables import DOCS, markdown, measured_with, publish
from torch import Tensor

from clients.defences import make_defence
from fedinverse.models import build
from fedinverse.storage import write_json

VARIANTS = {  # defence, its settings, as public code has the network
    "plain_nchw": ("none", {}, True),
    "published": ("bido_hsic", {"numerics": "published"}, True),
    "plain": ("none", {}, False),
    "ours": ("bido_hsic", {}, False),
    "coco": ("bido_coco", {}, False),
}

COLUMNS = {  # of the published table: what of a row, and in how many digits
    "plain NCHW, ms": ("plain_nchw", ".3g"),
    "published, ms": ("published", ".3g"),
    "our plain, ms": ("plain", ".3g"),
    "our HSIC, ms": ("ours", ".3g"),
    "our COCO, ms": ("coco", ".3g"),
    "HSIC / plain": ("ours / plain", ".2f"),
    "published / ours": ("published / ours", ".2f"),
    "gradient error, published": ("published gradient error", ".1e"),
    "ours": ("ours gradient error", ".1e"),
}


def turn_of(variant: str, net: str, size: int) -> Turn:
    """Return a training step of ``variant``: forward, loss, backward, SGD."""
    name, table, as_published = VARIANTS[variant]
    generator = torch.Generator().manual_seed(0)
    model = build(net, 10, seed=0).train()
    images = torch.rand((size, *model.input_shape), generator=generator)
    if as_published:
        plain_network(model)
    else:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (size,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, foreach=True)
    defence = make_defence(name, table, "benchmark")

    def turn() -> list[float]:
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss, _ = defence.loss(model, images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return [time.process_time() - start]

    return turn


def measure(net: str, size: int, steps: int) -> dict[str, float]:
    """Return median milliseconds per step of each variant, and the ratios of the goals."""
    makers = {name: partial(turn_of, name, net, size) for name in VARIANTS}
    plain = {name: make for name, make in makers.items() if VARIANTS[name][2]}
    ours = {name: make for name, make in makers.items() if not VARIANTS[name][2]}
    result = {name: 1000 * seconds for name, seconds in medians_apart(plain, ours, steps).items()}
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
    """Measure, print, write JSON and the table of docs/benchmarks.md if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["lenet5", "mcnn", "scnn"])
    parser.add_argument("--batches", nargs="+", type=int, default=[60, 128])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--publish", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    for net in chosen.nets:
        for size in chosen.batches:
            row = measure(net, size, chosen.steps) | gradient_errors(net, size)
            table[f"{net}, {size}"] = row
            print(f"{net}, {size}:", ", ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    if chosen.json:
        write_json(chosen.json, {"unit": "ms CPU per step; ratios", "steps": chosen.steps, "measured": table})
    if chosen.publish:
        rows = [[name, *(format(row[key], digits) for key, digits in COLUMNS.values())] for name, row in table.items()]
        text = markdown(["network, batch", *COLUMNS], rows) + measured_with()
        publish("bido-step", text, DOCS / "benchmarks.md")


if __name__ == "__main__":
    main()
