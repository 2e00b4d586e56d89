"""How far BatchNorm's running statistics lag behind a federation's weights: accuracy with them and with a batch's own.

A client that sees few batches a round moves the running statistics by 1 - .9^batches only, and the average of such
clients no further. Until they have caught up the global model reads worse than its weights could.

    python benchmarks/batchnorm_lag.py runs/paper-mnist
"""

import sys
from pathlib import Path

import torch

from fedinverse.data.source import unit
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.seeds import generator
from fedinverse.storage import into_module, load_weights


def main(path: Path) -> None:
    """Print both accuracies of every global model of the run on the whole reserve."""
    run = Run(path.resolve())
    reserve = part_of(run, "reserve")
    order = torch.randperm(len(reserve), generator=generator(0, "order"))
    images, labels = unit(reserve.images[order]), reserve.labels[order]
    print("round   running statistics   the batch's own")
    for line in run.recorded_rounds("with_victim"):
        file = run.files.server.checkpoint("with_victim", line.round)
        accuracies = []
        for training in (False, True):
            network = run.initial_network().train(training)
            into_module(network, load_weights(file)[0], str(file))
            with torch.no_grad():
                accuracies.append(float((network(images).argmax(1) == labels).float().mean()))
        print(f"{line['round']:>5}   {accuracies[0]:>18.1%}   {accuracies[1]:>15.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
