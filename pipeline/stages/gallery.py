"""Stage 4, the pictures: reconstructions beside the nearest images, and training images that were copied."""

import pandas as pd
import torch

from auditor.evaluators.embedding import embedding_of
from auditor.evidence import Exhibit, read_exhibit
from auditor.metrics.copies import copies
from auditor.metrics.distances import nearest
from auditor.nearest import BestReconstruction, Featured, find
from auditor.omitted import Omitted
from auditor.settings import Audit
from fedinverse.client_data import shard_of
from fedinverse.errors import StageError
from fedinverse.layout import RECONSTRUCTIONS
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.shard import Shard
from pipeline.stages.inversions import finished
from report.run.copies import Copied, CopiesShown, copies_shown
from report.run.gallery import Gallery, encoded, gallery


def galleries(run: Run, scores: pd.DataFrame, rounds: dict[str, int]) -> list[Gallery]:
    """Return one gallery per attack, in the order of ``rounds`` (attack label -> round shown).

    Raises:
        StageError: the reconstructions of one of them are not there.
    """
    nearest = nearest_images(run, rounds)
    metric = run.section("audit", Audit).primary.metric
    uris, lossless = encoded([each for one in nearest for each in one])
    result = []
    for (attack, number), one in zip(rounds.items(), nearest, strict=True):
        mine, uris = uris[: len(one)], uris[len(one) :]
        success = _success(scores[scores["metric"] == metric], attack, number)
        result.append(gallery(attack, number, one, (mine, lossless), success, run.class_names, run.victim_classes))
    return result


def nearest_images(run: Run, rounds: dict[str, int]) -> list[list[BestReconstruction]]:
    """Return, for every attack (label -> round), its best reconstruction of each class with the images nearest to it.

    Raises:
        StageError: the reconstructions of one of them are not there.
    """
    exhibits = [exhibit_of(run, attack, number) for attack, number in rounds.items()]
    classes = torch.cat([exhibit.labels for exhibit in exhibits]).unique()
    embedding = embedding_of(run)

    def featured(shard: Shard) -> Featured:
        return Featured(shard, embedding.of_pixels(shard.images))

    train, reserve = (featured(_of(part_of(run, part), classes)) for part in ("train", "reserve"))
    public = run.pools["public"]
    pool = Shard(public.tensor(), torch.from_numpy(public.labels))
    shards = (shard_of(run, client, "with_victim") for client in run.population.attackers)
    held = [featured(shard) for shard in (pool, *shards) if len(shard)]
    return [find(exhibit, embedding, train, reserve, held) for exhibit in exhibits]


def exhibit_of(run: Run, attack: str, server_round: int) -> Exhibit:
    """Return what ``attack`` made of the model captured at ``server_round``.

    Raises:
        StageError: it is not there.
    """
    for each in finished(run):
        if (each.attack, each.target.arm, each.target.round) == (attack, "A", server_round):
            return read_exhibit(each.inversion.path / RECONSTRUCTIONS, "A", each.target.world, server_round, attack)
    raise StageError(
        f"{run.path} was audited, but its reconstructions by '{attack}' at round {server_round} are gone or were made "
        "by another version; run the stages 'invert' and 'audit' again"
    )


def _of(shard: Shard, classes: torch.Tensor) -> Shard:
    rows = torch.isin(shard.labels, classes)
    return Shard(shard.images[rows], shard.labels[rows])


def _success(scores: pd.DataFrame, attack: str, server_round: int) -> dict[int, float]:
    mine = scores[(scores["attack"] == attack) & (scores["arm"] == "A") & (scores["round"] == server_round)]
    means = mine.groupby("label")["value"].mean()
    return {int(str(label)): float(value) for label, value in means.items()}


def copies_of(run: Run, attack: str, server_round: int) -> CopiesShown:
    """Return the copies among what ``attack`` made of the model captured at ``server_round``.

    Raises:
        StageError: its reconstructions are not there.
    """
    exhibit = exhibit_of(run, attack, server_round)
    rows = torch.isin(exhibit.labels, torch.tensor(run.victim_classes)) & ~exhibit.failed
    images, labels = exhibit.images[rows], exhibit.labels[rows]
    train, reserve = part_of(run, "train", victim_only=True), part_of(run, "reserve", victim_only=True)
    embedding = embedding_of(run)
    features, of_reserve = embedding(images), embedding.of_pixels(reserve.images)
    of_train = embedding.of_pixels(train.images)
    outcome = copies(nearest(features, of_train), nearest(of_reserve, of_train).distance)
    if isinstance(outcome, Omitted) or not outcome.called.any():
        return copies_shown(outcome, [], attack)
    beside = nearest(features, of_reserve)
    pairs = [
        Copied(
            run.class_names[int(labels[row])],
            {
                "made": images[row].clamp(0, 1).mul(255).round().to(torch.uint8),
                "train": train.images[int(outcome.original[row])],
                "reserve": reserve.images[int(beside.index[row])],
            },
            {"train": float(outcome.distance[row]), "reserve": float(beside.distance[row])},
            float(outcome.corrected[row]),
        )
        for row in outcome.corrected.argsort(stable=True).tolist()
        if outcome.called[row]
    ]
    return copies_shown(outcome, pairs, attack)
