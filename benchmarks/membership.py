"""Our membership scores beside the published ones, written down plainly from the papers, on the same models.

    python benchmarks/membership.py [--seed 0] [--references 8] [--epochs 30]

One target is trained on 200 digits, the candidates are these and 200 others of the same classes; reference models are
trained on halves of 400 further digits, so that none has seen a candidate. The plain versions read:

loss      -l(x): ML Privacy Meter's population attack thresholds the loss (Yeom et al. 2018).
LiRA      offline, online variance per example: Phi((phi(x) - mean of phi over OUT models) / their deviation)
          (Carlini et al. 2022, "offline attack").
RMIA      offline: share of z with (p(x) / p'(x)) / (p(z) / p'(z)) >= gamma, p' = ((1 + a) mean of OUT + (1 - a)) / 2
          (Zarifzadeh et al. 2024; as in ML Privacy Meter, a = .3, gamma = 1, z: the references' own images).

Both versions are given to scipy's Mann-Whitney statistic for the area, ours to our own as well.
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from attacker.membership.references import Holdings, References, train_references
from attacker.membership.scores import Population, lira_offline, rmia, scores_of
from attacker.membership.signals import confidences, signals
from auditor.metrics.roc import auc, told_apart
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.data import Request, open_source
from fedinverse.data.source import unit
from fedinverse.models import Classifier, build
from fedinverse.seeds import generator, numpy_generator
from fedinverse.shard import Shard

MEMBERS, OUTSIDE = 200, 400
OFFLINE_A, GAMMA = 0.3, 1.0
WIDTH = 0.25
Scores = NDArray[np.float64]


def main() -> None:
    """Train, score both ways, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of data order, weights and batches")
    parser.add_argument("--references", type=int, default=8, help="models that never saw a candidate")
    parser.add_argument("--epochs", type=int, default=30, help="of every model")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    candidates, member, further = drawn(chosen.seed)
    target = build("mcnn", 10, WIDTH, seed=chosen.seed)
    training = Training(epochs=chosen.epochs, batch_size=16, lr=0.02)
    members = Shard(candidates.images[member], candidates.labels[member])
    train(target, members, training, make_defence("none", {}, "benchmark"), generator(chosen.seed, "target"))
    held = Holdings(further.images, further.labels)
    settings = References(count=chosen.references, epochs=chosen.epochs)
    references = train_references(held, ("mcnn", 10, WIDTH), settings, chosen.seed, "cpu")
    pairs = both(target.eval(), references, candidates, further)
    print(f"{MEMBERS} members, {MEMBERS} non-members, {chosen.references} references, {chosen.epochs} epochs, "
          f"seed {chosen.seed}; {time.process_time() - begun:.0f} s of CPU\n")  # fmt: skip
    print("| score | AUC, ours | AUC, plain | difference, in widths of the interval | rank correlation |")
    print("|---|---:|---:|---:|---:|")
    for name, (ours, plain) in pairs.items():
        share = told_apart(ours, member, numpy_generator(chosen.seed, name)).auc
        width = share.high - share.low
        apart = abs(share.value - area(plain, member)) / width if width else 0.0
        agreed = stats.spearmanr(ours, plain).statistic
        print(f"| {name} | {auc(ours, member):.4f} [{share.low:.3f}, {share.high:.3f}] | {area(plain, member):.4f} "
              f"| {apart:.3f} | {agreed:.5f} |")  # fmt: skip


def drawn(seed: int) -> tuple[Shard, NDArray[np.bool_], Shard]:
    """Return candidates, which of them are members, and further images, all of different digits."""
    pool = open_source(Request("mnist", (1, 32, 32)))
    rows = numpy_generator(seed, "membership benchmark").permutation(len(pool.labels))[: 2 * MEMBERS + OUTSIDE]
    images, labels = pool.tensor(rows), torch.from_numpy(np.asarray(pool.labels)[rows])
    count = 2 * MEMBERS
    further = Shard(images[count:], labels[count:])
    return Shard(images[:count], labels[:count]), np.arange(count) < MEMBERS, further


def both(
    target: Classifier, references: list[Classifier], candidates: Shard, further: Shard
) -> dict[str, tuple[Scores, Scores]]:
    """Return every score twice: as the product computes it, and as the papers read."""
    ours = {"loss": scores_of(signals({1: target}, candidates.images, candidates.labels))["loss"].numpy()}
    phi = confidences(target, candidates.images, candidates.labels)
    out = torch.stack([confidences(model, candidates.images, candidates.labels) for model in references])
    records = Population(
        confidences(target, further.images, further.labels),
        torch.stack([confidences(model, further.images, further.labels) for model in references]),
    )
    ours |= {"LiRA offline": lira_offline(phi, out).numpy(), "RMIA offline": rmia(phi, out, records, GAMMA).numpy()}
    x, z = (probabilities([target, *references], shard) for shard in (candidates, further))
    plain = {"loss": np.log(x[0]), "LiRA offline": plain_lira(x), "RMIA offline": plain_rmia(x, z)}
    return {name: (scores, plain[name]) for name, scores in ours.items()}


def probabilities(models: list[Classifier], shard: Shard) -> Scores:
    """Return the probability of the true class, float64 [M, N], by the softmax itself."""
    rows = torch.arange(len(shard))

    def of_one(model: Classifier) -> Tensor:
        return F.softmax(model(unit(shard.images)).double(), 1)[rows, shard.labels]

    with torch.inference_mode():
        return np.clip(torch.stack([of_one(model) for model in models]).numpy(), 1e-45, 1 - 1e-12)


def plain_lira(x: Scores) -> Scores:
    """Return one minus the p-value of phi among models that did not train on x, one example at a time."""
    scores = []
    for column in x.T:
        logits = [math.log(p / (1 - p)) for p in column]
        mean, deviation = float(np.mean(logits[1:])), float(np.std(logits[1:], ddof=1)) + 1e-30
        scores.append(float(stats.norm.logcdf(logits[0], mean, deviation)))
    return np.array(scores)


def plain_rmia(x: Scores, z: Scores) -> Scores:
    """Return how often x dominates a z, one pair at a time."""
    ratio_x, ratio_z = (
        [column[0] / (((1 + OFFLINE_A) * float(np.mean(column[1:])) + (1 - OFFLINE_A)) / 2) for column in each.T]
        for each in (x, z)
    )
    return np.array([sum(one / other >= GAMMA for other in ratio_z) / len(ratio_z) for one in ratio_x])


def area(scores: Scores, member: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve by scipy's Mann-Whitney statistic."""
    statistic = stats.mannwhitneyu(scores[member], scores[~member]).statistic
    return float(statistic) / (int(member.sum()) * int((~member).sum()))


if __name__ == "__main__":
    main()
