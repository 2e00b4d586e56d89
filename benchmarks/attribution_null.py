"""How often would chance attribute an attack's images to a client? The images of a run, dealt anew many times.

Takes a finished run with shared classes (``population.victim_classes = []``). The reconstructions stay as they are, and
who holds which training image is drawn again, so that whatever is attributed is false. Every client is asked in turn,
too, whether the reconstructions are nearer to its images: whom chance favoured most.

    python benchmarks/attribution_null.py runs/shared --deals 200
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.evaluators.embedding import fit_embedding
from auditor.metrics.copies import copies
from auditor.metrics.distances import member_lift, nearest
from auditor.omitted import Omitted
from auditor.peers import Side
from auditor.statistics import Cells, Estimate, lead_over_half
from auditor.verdict import read_verdict
from fedinverse.client_data import shard_of
from fedinverse.data.source import unit
from fedinverse.layout import WITH_VICTIM
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.seeds import numpy_generator
from pipeline.stages.gallery import exhibit_of


def lead(attack: Side, mine: Side, theirs: Side) -> Estimate:
    """Return 2 s - 1 of the share nearer to ``mine`` than to as many of ``theirs``; the attack's labels are meant."""
    lift = member_lift(
        attack.features,
        attack.labels,
        train=mine.features,
        train_labels=mine.labels,
        reserve=theirs.features,
        reserve_labels=theirs.labels,
    )
    assert not isinstance(lift, Omitted)
    shares = lift.share.numpy()[None]
    return lead_over_half(Cells(shares, lift.count.numpy()[None].astype(float), (0,), tuple(lift.labels.tolist())))


def copied(attack: Side, mine: Side, reserve: Tensor) -> int:
    """Return how many of ``mine`` are copied."""
    outcome = copies(nearest(attack.features, mine.features), nearest(reserve, mine.features).distance)
    return 0 if isinstance(outcome, Omitted) else outcome.originals


def main() -> None:
    """Print the lead of every client, then how many random deals are attributed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--deals", type=int, default=200)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    run = Run(chosen.run)
    primary, population = read_verdict(run.files.verdict).primary, run.population
    embedding = fit_embedding(part_of(run, "vault").images)

    def described(images: Tensor) -> Tensor:
        return torch.cat([embedding(unit(part)) for part in images.split(500)])

    exhibit = exhibit_of(run, primary.attack, primary.round)
    attack = Side(embedding(exhibit.images), exhibit.labels).rows(~exhibit.failed)
    reserve = described(part_of(run, "reserve", victim_only=True).images)
    clients = [client for client in range(population.clients) if client not in population.attackers]
    shards = [shard_of(run, client, WITH_VICTIM) for client in clients]
    held = Side(torch.cat([described(shard.images) for shard in shards]), torch.cat([shard.labels for shard in shards]))
    owner = np.repeat(np.arange(len(clients)), [len(shard) for shard in shards])
    for place, client in enumerate(clients):
        mine = torch.from_numpy(owner == place)
        nearer = lead(attack, held.rows(mine), held.rows(~mine))
        print(f"client {client}: lead {nearer.value:+.0%} [{nearer.low:+.0%}, {nearer.high:+.0%}]", end=", ")
        print(f"copied {copied(attack, held.rows(mine), reserve)}")
    random, nearer_shown, copies_shown = numpy_generator(run.seed, "deals"), 0, 0
    for _ in range(chosen.deals):
        mine = torch.from_numpy(random.permutation(owner) == clients.index(population.victim))
        nearer_shown += lead(attack, held.rows(mine), held.rows(~mine)).above_zero
        copies_shown += copied(attack, held.rows(mine), reserve) > 0
    print(f"of {chosen.deals} random deals {nearer_shown} show a lead, {copies_shown} a copy")


if __name__ == "__main__":
    main()
