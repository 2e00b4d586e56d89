"""The tidy score table: one row per seed x world x round x arm x attack x class x metric (see ``auditor.table``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from auditor.diversity import vendi_score
from auditor.embedding import Embedding, fit_embedding
from auditor.evaluator import Judge
from auditor.evidence import Exhibit
from auditor.membership import member_lift
from auditor.omitted import Omitted
from auditor.table import COLUMNS
from auditor.threshold import Threshold, calibrate
from auditor.verdict import MEMBER_METRIC
from fedinverse.data.source import unit
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.shard import Shard

ACCURACY, CONFIDENCE, RESEMBLANCE, VENDI = "attack-accuracy", "target-confidence", "resemblance", "vendi"


@dataclass(frozen=True)
class Bench:
    """What reconstructions are held against.

    Attributes:
        judge: E1, says which class an image shows.
        embedding: E2, says how near two images are, knowing no class.
        train: the victim's training images; ``train_features`` their embedding.
        reserve: images of all classes that are in no training set; ``reserve_features`` their embedding.
        threshold: how near counts as resembling, at 1 % false accepts; or why there is none.
    """

    judge: Judge
    embedding: Embedding
    train: Shard
    train_features: Tensor
    reserve: Shard
    reserve_features: Tensor
    threshold: Threshold | Omitted


def open_bench(run: Run, judge: Judge) -> Bench:
    """Fit E2 on the vault and calibrate its threshold on the reserve."""
    embedding = fit_embedding(part_of(run, "vault").images)
    train, reserve = part_of(run, "train", victim_only=True), part_of(run, "reserve")
    of_train, of_reserve = embedding(unit(train.images)), embedding(unit(reserve.images))
    threshold = calibrate(of_train, train.labels, of_reserve, reserve.labels)
    return Bench(judge, embedding, train, of_train, reserve, of_reserve, threshold)


def score(exhibits: Iterable[Exhibit], bench: Bench, seed: int) -> pd.DataFrame:
    """Judge every exhibit, class by class; values in [0, 1] but for the Vendi score.

    Returns:
        ``attack-accuracy``: share that E1 reads as the intended class; a failed image misses.
        ``resemblance``: share that E2 finds near enough to a training image of the class (1 % false accepts).
        ``target-confidence``: the target's mean probability of the class, the attacker's own view.
        ``vendi``: effective number of different images, from 1 to their count.
        ``member-share`` (arm A): share nearer to a training than to a reserve image; .5: class prototypes.
    """
    rows = [row | {"seed": seed} for shown in exhibits for row in _rows(shown, bench)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows(shown: Exhibit, bench: Bench) -> Iterable[dict[str, Any]]:
    base = {"world": shown.world, "round": shown.round, "arm": shown.arm, "attack": shown.attack}
    sound = ~shown.failed
    right = (bench.judge.logits(shown.images).argmax(1).cpu() == shown.labels) & sound
    features = bench.embedding(shown.images)
    near = sound.clone()
    if isinstance(bench.threshold, Threshold):
        near &= bench.threshold.accepts(features, shown.labels, bench.train_features, bench.train.labels)
    for label in torch.unique(shown.labels).tolist():
        mine = shown.labels == label
        base |= {"label": label, "count": int(mine.sum())}
        yield base | {"metric": ACCURACY, "value": float(right[mine].float().mean())}
        yield base | {"metric": CONFIDENCE, "value": float(shown.confidence[mine].mean())}
        if isinstance(bench.threshold, Threshold):
            yield base | {"metric": RESEMBLANCE, "value": float(near[mine].float().mean())}
        vendi = vendi_score(features[mine & sound])
        if not isinstance(vendi, Omitted):
            yield base | {"metric": VENDI, "value": vendi}
    if shown.arm == "A":
        yield from _member_rows(base, features[sound], shown.labels[sound], bench)


def _member_rows(base: dict[str, Any], features: Tensor, labels: Tensor, bench: Bench) -> Iterable[dict[str, Any]]:
    lift = member_lift(
        features,
        labels,
        train=bench.train_features,
        train_labels=bench.train.labels,
        reserve=bench.reserve_features,
        reserve_labels=bench.reserve.labels,
    )
    if isinstance(lift, Omitted):
        return
    for label, share, count in zip(lift.labels.tolist(), lift.share.tolist(), lift.count.tolist(), strict=True):
        yield base | {"label": label, "count": count, "metric": MEMBER_METRIC, "value": share}


def reserve_exhibit(bench: Bench, classes: Iterable[int], server_round: int) -> Exhibit:
    """Return the ceiling: real reserve images of ``classes``, judged as if they were reconstructions."""
    rows = torch.isin(bench.reserve.labels, torch.tensor(list(classes)))
    images, labels = unit(bench.reserve.images[rows]), bench.reserve.labels[rows]
    return Exhibit(
        "CEIL",
        "with_victim",
        server_round,
        "",
        images,
        labels,
        torch.ones(len(labels)),
        torch.zeros(len(labels)).bool(),
    )
