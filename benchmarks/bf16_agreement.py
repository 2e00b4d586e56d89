"""Do bf16 gradients agree with fp32 on a run's models? What ``precision = "bf16"`` and ``"auto"`` ask of every target.

    python benchmarks/bf16_agreement.py RUN [--rounds 0 5 10]

For each global model of RUN, in both worlds, and each identity loss: the median cosine over 32 latents between the bf16
and the fp32 gradient by the latent, with the prior of ``benchmarks/ablation.py``'s GMI; at least .99 passes. Seconds.
"""

import argparse
import itertools
from pathlib import Path

import torch
from ablation import ATTACKS, CPU, SHARED, public_set

from attacker.acceleration import Steps, agreement_of
from attacker.attacks.registry import make_attack
from attacker.target import open_target
from fedinverse.layout import WORLDS
from fedinverse.run import Run

LOSSES: tuple[str, ...] = ("ce", "logit", "max_margin", "poincare")


def main() -> None:
    """Print a line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--rounds", type=int, nargs="+", default=[0, 5, 10])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(chosen.run.resolve())
    attack = make_attack(ATTACKS["gmi"] | {"kind": "gmi"}, "attacks.gmi", "benchmark")
    prior = attack.prior(None, public_set("glyphs"), SHARED, CPU)
    labels = torch.tensor(run.population.victim_classes)
    for world, number in itertools.product(WORLDS, chosen.rounds):
        path = run.files.server.checkpoint(world, number)
        if path.exists():
            target = open_target(path, run.model.name, len(run.class_names), run.model.width, CPU)
            agreement = {loss: agreement_of("bf16", Steps(target, prior), labels, loss) for loss in LOSSES}
            print(f"{world} round {number}:", ", ".join(f"{loss} {value:.4f}" for loss, value in agreement.items()))


if __name__ == "__main__":
    main()
