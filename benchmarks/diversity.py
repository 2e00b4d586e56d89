"""FedInverse's diversity regulariser on real generator outputs: what the published term does, and what the valid does.

    python benchmarks/diversity.py [--seeds 5] [--out runs/ablation]

(1) The published term alone (ridge-normalised HSIC of the halves of a batch) on samples of the quick start's WGAN-GP:
its value and largest gradient at five images (two per half, as in the paper's MNIST command), and how far the mean
pairwise distance of 64 samples moves when 200 normalised steps on the latents descend it.

(2) Inside attacks on the federations of ``benchmarks/ablation.py`` (shared when ``--out`` is the same): ten
reconstructions of each of the victim's classes, without a term, with the published ones and with the valid one;
accuracy, Vendi score and mean distances are the auditor's evaluator's. Cells are kept; a stopped script is run again.
One thread. The tables go into docs/attacks.md.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from ablation import ATTACKS, CPU, GMI_LR, SHARED, accuracy, evaluator, federation, public_set, target
from tables import markdown, publish, spread
from torch import Tensor

from attacker.attacks.registry import make_attack
from attacker.losses.diversity import Diversity, DiversitySettings, measured_diversity
from attacker.priors.prior import Prior
from fedinverse.errors import FedInverseError
from fedinverse.seeds import generator
from fedinverse.storage import read_json, write_json

LOSS, PUBLIC, RESTARTS = "max_margin", "glyphs", 10
TERMS: dict[str, dict[str, Any]] = {
    "none": {"measure": "none"},
    "hsic_paper, λ .05, σ 5": {"measure": "hsic_paper", "weight": 0.05, "sigma": 5.0},
    "hsic_paper, λ 50, σ 5": {"measure": "hsic_paper", "weight": 50.0, "sigma": 5.0},
    "coco_paper, λ 50, σ 5": {"measure": "coco_paper", "weight": 50.0, "sigma": 5.0},
    "hsic, λ -1e3": {"measure": "hsic", "weight": -1e3},
    "hsic, λ -1e4": {"measure": "hsic", "weight": -1e4},
    "hsic, λ -1e5": {"measure": "hsic", "weight": -1e5},
}
# Distributions draw four samples per class and step, with and without a term: the fewest that unbiased HSIC compares.
TABLES: dict[str, dict[str, Any]] = {"gmi": {"lr": GMI_LR[LOSS]}, "vmi": {"draws": 4}}


def attack_with(name: str, term: dict[str, Any]) -> Any:
    """Return the ablation's attack ``name`` with a diversity term."""
    table = ATTACKS[name] | TABLES[name] | {"kind": name, "identity_loss": LOSS, "diversity": term}
    return make_attack(table, "attacks.diversity", "diversity")


def cell(out: Path, name: str, term: dict[str, Any], seed: int) -> dict[str, float]:
    """Attack the last round; return accuracy and mean diversity over the classes, as the evaluator sees it."""
    run, judge, images = federation(out, seed), evaluator(out, seed), public_set(PUBLIC)
    labels = torch.tensor(run.population.victim_classes).repeat_interleave(RESTARTS)
    attack, victim = attack_with(name, term), target(run, "with_victim")
    prior = attack.prior(victim, images, SHARED, CPU)
    reconstructions = attack.invert(victim, prior, images, labels, generator(seed, "diversity"))
    measured = measured_diversity(
        reconstructions.images, judge.features(reconstructions.images), labels, reconstructions.failed
    ).values()
    return {
        "accuracy": accuracy(judge, reconstructions.images, labels, reconstructions.failed),
        "vendi": mean(diversity.vendi for diversity in measured),
        "feature": mean(diversity.feature_distance for diversity in measured),
        "pixel": mean(diversity.pixel_distance for diversity in measured),
    }


def alone(prior: Prior, sigma: float) -> dict[str, float]:
    """Return what the published term says of five samples, and what descending it does to 64."""
    term = Diversity(DiversitySettings(measure="hsic_paper", weight=1.0, sigma=sigma))
    random = generator(SHARED, "diversity", "alone")

    def value(images: Tensor) -> Tensor:
        return term(images[:, None], images.new_zeros(len(images), 1, 1), images.new_zeros(len(images), 1, 1)) / len(
            images
        )

    few = prior.sample(5, random, CPU).clone().requires_grad_(True)
    inert = value(few)
    (slope,) = torch.autograd.grad(inert, few)
    z = torch.randn(64, prior.latent, generator=random)
    with torch.no_grad():
        before = torch.pdist(prior.generator(z).flatten(1)).mean()
    for _ in range(200):
        z = z.requires_grad_(True)
        (step,) = torch.autograd.grad(value(prior.generator(z)), z)
        z = (z - 0.2 * step / step.norm()).detach()
    with torch.no_grad():
        after = torch.pdist(prior.generator(z).flatten(1)).mean()
    return {"value": float(inert.detach()), "slope": float(slope.abs().max()), "distance": float(after / before - 1)}


def main() -> int:
    """Run what is missing; write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="federations, with the seeds 0, 1, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="where cells and federations are kept")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out = chosen.out.resolve()
    try:
        prior = attack_with("gmi", {"measure": "none"}).prior(None, public_set(PUBLIC), SHARED, CPU)
        lone = {name: alone(prior, sigma) for name, sigma in (("σ = 5", 5.0), ("σ = 0 (median rule)", 0.0))}
        rows = [
            [name, f"{said['value']:.3f}", f"{said['slope']:.1e}", f"{100 * said['distance']:+.0f} %"]
            for name, said in lone.items()
        ]
        publish("published-term", markdown(["", "value, m = 2", "largest gradient", "pairwise distance of 64"], rows))
        results: dict[tuple[str, str], list[dict[str, float]]] = {}
        for seed, name, (number, term) in itertools.product(range(chosen.seeds), TABLES, enumerate(TERMS)):
            path = out / "diversity" / f"{name}-{number}-{seed}.json"
            if not path.exists():
                started = time.process_time()
                write_json(path, {"term": TERMS[term]} | cell(out, name, TERMS[term], seed))
                print(f"{name}, seed {seed}, {term}: {time.process_time() - started:.0f} s", flush=True)
            stored = read_json(path)
            if stored["term"] != TERMS[term]:
                raise FedInverseError(f"{path} is of another term, {stored['term']}; delete {path.parent}")
            results.setdefault((name, term), []).append(stored)
    except FedInverseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = []
    for (name, term), measured in results.items():
        share = spread([one["accuracy"] for one in measured])
        others = (spread([one[kind] for one in measured], 1, 2) for kind in ("vendi", "feature", "pixel"))
        lines.append([name, term, share, *others])
    header = ["attack", "term", "accuracy, %", "Vendi of 10", "feature distance", "pixel distance"]
    publish("diversity", markdown(header, lines))
    write_json(out / "diversity.json", {"alone": lone, "cells": {f"{a}, {t}": v for (a, t), v in results.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
