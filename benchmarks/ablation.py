"""Ablation on the quick start's federation: attack x identity loss x public set, several seeds, judged by the auditor.

    python benchmarks/ablation.py [--seeds 5] [--out runs/ablation] [--share K N] [--only gmi/max_margin/glyphs/0]

Per seed: the quick start's federation in both worlds (local engine), its last round, and the auditor's evaluator.
Attacked are the victim's five classes, five reconstructions each, in the world with the victim (A) and without it (B2);
B0 are unoptimised samples. What seeds share: the public sets, and of GMI and VMI the priors, which know no target.
KED-MI's prior is trained for every target. What seeds do not share: data split, federation, evaluator, latents.

Every cell is kept in ``--out``; a stopped script is simply run again, ``--share 0 2`` and ``--share 1 2`` run side by
side. When no cell is missing, the table goes into docs/attacks.md and into ``--out``/ablation.json. One thread; about
an hour of one core. The public set ``fmnist`` needs Fashion-MNIST: ``apt-get install dataset-fashion-mnist``.
"""

import argparse
import itertools
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tables import markdown, publish, spread
from torch import Tensor

from attacker.attacks.registry import make_attack
from attacker.streams import occurrences
from attacker.target import PublicSet, Target, open_target
from auditor.evaluators.evaluator import Judge, train_judge
from auditor.evaluators.material import material_of
from auditor.metrics.attack_accuracy import attack_accuracy, others_ahead
from auditor.settings import Audit
from fedinverse.data import Request, open_source
from fedinverse.errors import FedInverseError
from fedinverse.layout import WORLDS, World
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator
from fedinverse.storage import read_json, write_json
from pipeline.experiment import load_experiment, resolved
from pipeline.stages.federate import federate

SMALL = {"width": 0.25, "batch_size": 32}
ATTACKS: dict[str, dict[str, Any]] = {
    "gmi": {"iterations": 200, "prior": SMALL | {"steps": 600, "critic_steps": 3, "lr": 1e-3}},
    "kedmi": {"iterations": 300, "prior": SMALL | {"steps": 300}},
    "vmi": {"iterations": 300, "prior": SMALL | {"steps": 600}},
}
LOSSES = ("ce", "logit", "max_margin", "poincare")
# GMI descends by plain gradients: a step that suits a loss that saturates is too long for one that does not.
GMI_LR = {"ce": 2e-3, "poincare": 2e-3, "logit": 2e-4, "max_margin": 2e-4}
PUBLIC = ("glyphs", "fmnist", "mnist59")
PUBLIC_LIMIT = 6000
RESTARTS = 5
SHARED = 0  # seed of the public sets and of the priors that know no target
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Cell:
    """One attack with one identity loss and one public set, on the federation of one seed."""

    attack: str
    loss: str
    public: str
    seed: int

    @property
    def name(self) -> str:
        """What ``--only`` calls it."""
        return f"{self.attack}/{self.loss}/{self.public}/{self.seed}"

    def path(self, out: Path) -> Path:
        """Return where its result is kept."""
        return out / "cells" / f"{self.attack}-{self.loss}-{self.public}-{self.seed}.json"

    def run(self, out: Path) -> dict[str, Any]:
        """Attack both worlds; return the evaluator's accuracies by arm, in [0, 1], and what it cost."""
        table = ATTACKS[self.attack] | {"kind": self.attack, "identity_loss": self.loss}
        if self.attack == "gmi":
            table |= {"lr": GMI_LR[self.loss]}
        attack = make_attack(table, "attacks.ablation", "ablation")
        run, judge = federation(out, self.seed), evaluator(out, self.seed)
        images = public_set(self.public)
        labels = torch.tensor(run.population.victim_classes).repeat_interleave(RESTARTS)
        scores: dict[str, float] = {}
        for arm, world in (("A", WORLDS[0]), ("B2", WORLDS[1])):
            victim = target(run, world)
            prior = attack.prior(victim, images, SHARED, CPU)
            reconstructions = attack.invert(victim, prior, images, labels, generator(self.seed, "ablation"))
            scores[arm] = accuracy(judge, reconstructions.images, labels, reconstructions.failed)
            if arm == "A":
                plain = prior.sample(len(labels), generator(self.seed, "ablation", "B0"), CPU)
                scores["B0"] = accuracy(judge, plain, labels, torch.zeros(len(labels), dtype=torch.bool))
                scores["confidence"] = float(reconstructions.confidence[~reconstructions.failed].mean())
                scores["seconds"] = reconstructions.cost.seconds
        return {"cell": asdict(self), "settings": attack.settings.model_dump(mode="json"), **scores}


def accuracy(judge: Judge, images: Tensor, labels: Tensor, failed: Tensor) -> float:
    """Return the share that E1 reads as its class, each class weighing the same; a failed image misses."""
    ahead = others_ahead(judge.logits(images), labels).masked_fill(failed, judge.model.classes)
    return float(attack_accuracy(ahead, labels, occurrences(labels), judge.model.classes).mean)


@cache
def federation(out: Path, seed: int) -> Run:
    """Return the quick start with ``seed``, federated in both worlds."""
    experiment = load_experiment("quickstart", [f"seed={seed}", f"name=seed-{seed}", "engine.kind=local"], out)
    path = out / experiment.name
    run = Run(path) if (path / "pools.json").exists() else prepare(path, resolved(experiment))
    for world in WORLDS:
        federate(run, world, experiment.engine)
    return run


@cache
def evaluator(out: Path, seed: int) -> Judge:
    """Return the auditor's evaluator of that federation."""
    run = federation(out, seed)
    settings = run.section("audit", Audit).evaluator
    return train_judge(material_of(run, settings), settings, run.files.auditor.root)


@cache
def public_set(name: str) -> PublicSet:
    """Return the public images, the same for every seed."""
    pool = open_source(Request(name, (1, 32, 32), limit=PUBLIC_LIMIT, seed=SHARED))
    return PublicSet.of(pool)


@cache
def target(run: Run, world: World) -> Target:
    """Return the last global model: the server's checkpoint, which is what the capture holds (by its hash)."""
    path = run.files.server.checkpoint(world, run.table["federation"]["rounds"])
    return open_target(path, run.model.name, len(run.class_names), run.model.width, CPU)


def table_of(results: list[dict[str, Any]], seeds: int) -> str:
    """Return the Markdown table: a row per attack and loss; per public set A, and beneath the controls."""
    by_cell = {tuple(result["cell"].values()): result for result in results}

    def values(attack: str, loss: str, public: str, arm: str) -> list[float]:
        return [by_cell[attack, loss, public, seed][arm] for seed in range(seeds)]

    rows = []
    for attack, loss in itertools.product(ATTACKS, LOSSES):
        reached = [f"**{spread(values(attack, loss, public, 'A'))}**" for public in PUBLIC]
        without = " / ".join(spread(values(attack, loss, public, "B2")) for public in PUBLIC)
        rows.append([attack, loss, *reached, without])
    rows += [
        [f"{attack}: prior only", "–", *(spread(values(attack, "ce", public, "B0")) for public in PUBLIC), "–"]
        for attack in ATTACKS
    ]
    return markdown(["attack", "identity loss", *PUBLIC, f"no victim ({' / '.join(PUBLIC)})"], rows)


def main() -> int:
    """Run the cells that are missing; write the table when all are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="federations, with the seeds 0, 1, ...")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="where cells and federations are kept")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="every N-th seed from K")
    parser.add_argument("--only", default="", help="one cell, ATTACK/LOSS/PUBLIC/SEED")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    out, (share, of) = chosen.out.resolve(), chosen.share
    cells = [Cell(*four) for four in itertools.product(ATTACKS, LOSSES, PUBLIC, range(chosen.seeds))]
    mine = [cell for cell in cells if cell.seed % of == share and chosen.only in ("", cell.name)]
    try:
        for number, cell in enumerate(sorted(mine, key=lambda cell: cell.seed), 1):
            if not cell.path(out).exists():
                started = time.process_time()
                result = cell.run(out)
                result["cpu-seconds"] = time.process_time() - started
                write_json(cell.path(out), result)
                shares = "  ".join(f"{arm} {100 * result[arm]:3.0f} %" for arm in ("A", "B2", "B0"))
                print(f"{number}/{len(mine)} {cell.name:<28} {shares}  {result['cpu-seconds']:.0f} s", flush=True)
        missing = [cell.name for cell in cells if not cell.path(out).exists()]
        if missing:
            print(f"no table yet: {len(missing)} of {len(cells)} cells are missing, the first is {missing[0]}")
            return 0
        results = [read_json(cell.path(out)) for cell in cells]
        write_json(out / "ablation.json", {"seeds": chosen.seeds, "restarts": RESTARTS, "cells": results})
        publish("ablation", table_of(results, chosen.seeds))
    except FedInverseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
