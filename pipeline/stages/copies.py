"""Stage 4, the copies: which reconstructions give back a training image of the victim's, with the images themselves."""

import torch

from auditor.evaluators.embedding import embedding_of
from auditor.metrics.copies import Copies, copies
from auditor.metrics.distances import nearest
from auditor.omitted import Omitted
from fedinverse.private import part_of
from fedinverse.run import Run
from pipeline.stages.gallery import exhibit_of
from report.run.copies import Copied, CopiesShown, copies_shown


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
    outcome = copies(features, embedding.of_pixels(train.images), of_reserve)
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
        for row in _surest(outcome)
    ]
    return copies_shown(outcome, pairs, attack)


def _surest(outcome: Copies) -> list[int]:
    order: list[int] = outcome.corrected.argsort(stable=True).tolist()
    return [row for row in order if outcome.called[row]]
