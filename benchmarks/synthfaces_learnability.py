"""Do synthfaces carry identity? A narrow VGG16 learns 100 people and is asked about views it never saw.

    python benchmarks/synthfaces_learnability.py [--people 100] [--epochs 10] [--width 0.125]

Of every person's 30 views 24 train and 6 are held out. Prints one line per epoch and ends with exit code 1
when the held-out top-1 accuracy stays below 80 %. About 70 seconds on one core. Left-right mirroring
is the only augmentation, and the seed fixes everything.
"""

import argparse
import sys
import time

import torch
import torch.nn.functional as F

from fedinverse.data import Request, open_source
from fedinverse.data.source import unit
from fedinverse.data.synthfaces import VIEWS
from fedinverse.models import Classifier, build
from fedinverse.seeds import generator

HELD_OUT = 6
WANTED = 0.8
BATCH = 64


def main() -> int:
    """Train, report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=100, help="number of identities")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training views")
    parser.add_argument("--width", type=float, default=0.125, help="width of the VGG16")
    options = parser.parse_args()
    torch.set_num_threads(1)

    started = time.perf_counter()
    pool = open_source(Request("synthfaces", (3, 64, 64), limit=options.people * VIEWS))
    images, labels = pool.tensor(), torch.from_numpy(pool.labels)
    held_out = torch.arange(len(labels)) % VIEWS >= VIEWS - HELD_OUT
    print(f"{len(labels)} images of {options.people} people ready after {time.perf_counter() - started:.1f} s")

    model = build("vgg16", options.people, options.width, seed=0)
    random = generator(0, "learnability")
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rows = (~held_out).nonzero().flatten()
    steps = options.epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    accuracy = 0.0
    for epoch in range(1, options.epochs + 1):
        model.train()
        for chosen in torch.split(rows[torch.randperm(len(rows), generator=random)], BATCH):
            batch = unit(images[chosen])
            mirrored = torch.rand(len(chosen), 1, 1, 1, generator=random) < 0.5
            loss = F.cross_entropy(model(torch.where(mirrored, batch.flip(3), batch)), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        accuracy = top1(model, images[held_out], labels[held_out])
        print(
            f"epoch {epoch:2d}  held-out top-1 {accuracy:6.1%}  {time.perf_counter() - started:6.1f} s",
            flush=True,
        )
    return 0 if accuracy >= WANTED else 1


@torch.inference_mode()
def top1(model: Classifier, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of ``images`` (uint8) whose largest logit is their label."""
    model.eval()
    right = sum(
        (model(unit(part)).argmax(1) == truth).sum()
        for part, truth in zip(torch.split(images, 200), torch.split(labels, 200), strict=True)
    )
    return float(right) / len(labels)


if __name__ == "__main__":
    sys.exit(main())
