"""What reconstructions are held against: both evaluators, and the real images in their features, made once a run."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.evaluators.ahead import Ahead
from auditor.evaluators.embedding import CHUNK, Embedding, fit_embedding
from auditor.evaluators.evaluator import THREADS, Judge, train_judge
from auditor.evaluators.material import material_of
from auditor.evaluators.open_set import FAILED, OpenEvaluators, none_images, train_open_evaluators
from auditor.evaluators.threshold import Threshold, calibrate
from auditor.evidence import Exhibit
from auditor.metrics.attack_accuracy import others_ahead
from auditor.metrics.fidelity import RealSet, scaled
from auditor.omitted import Omitted
from auditor.peers import Peers, Side, peers_of
from auditor.settings import Audit
from fedinverse.data.source import unit
from fedinverse.private import holdings_of
from fedinverse.run import Run
from fedinverse.shard import Shard


@dataclass(frozen=True)
class Bench:
    """What reconstructions are held against.

    Attributes:
        judge: E1, says which class an image shows.
        open: two evaluators that may also say "none of these".
        ceiling: share of real reserve images that the judge reads, in [0, 1].
        open_ceiling: share that both others read as their class.
        embedding: E2, says how near two images are, knowing no class.
        threshold: how near counts as resembling, at 1 % false accepts; or why there is none.
        train: the victim's training images; ``train_seen`` their features by E1, ``train_features`` by E2.
        reserve: images of all classes that are in no training set; ``reserve_features`` by E2.
        known: what the attacker holds all along, uint8 [P, C, H, W]: the public images, then its own shard;
            ``known_features`` by E2.
        of_victim: the victim's training images as a set, for whole-set metrics.
        of_public: the public images, likewise.
        peers: other clients' and nobody's images of the victim's classes, where they share them; None: they are theirs.
    """

    judge: Judge
    open: OpenEvaluators
    ceiling: float
    open_ceiling: float
    embedding: Embedding
    threshold: Threshold | Omitted
    train: Shard
    train_seen: Tensor
    train_features: Tensor
    reserve: Shard
    reserve_features: Tensor
    known: Tensor
    known_features: Tensor
    of_victim: RealSet
    of_public: RealSet
    peers: Peers | None = None


def open_bench(run: Run, settings: Audit, samples: Sequence[Path], ahead: Ahead | None = None) -> Bench:
    """Open every instrument, and describe every real image once.

    Evaluators are trained, or read from the cache; E2 is fitted on the vault, its threshold calibrated on the reserve.
    What is "none of these" is learned from the public images and from ``samples``, files of unoptimised samples of the
    attacks' priors. ``ahead``: what trains them already; if it does not learn from these samples, another one helps.

    Raises:
        ConfigError: the evaluators would not be independent of the target.
    """
    material, store, device = material_of(run, settings.evaluator), run.files.auditor.root, settings.device

    def described(*sets: Tensor) -> tuple[Embedding, list[Tensor]]:
        embedding = fit_embedding(material.vault.images)
        return embedding, [embedding.of_pixels(images, device) for images in sets]

    held, reserve, public = holdings_of(run), material.reserve, run.pools["public"].tensor()
    train, known = held.victim, torch.cat([public, *(shard.images for shard in held.attackers)])
    with beside(1) as thread:  # the evaluators may still be trained, or waited for
        describing = thread.submit(described, train.images, reserve.images, known)
        with nullcontext() if ahead and ahead.trains_with(samples) else Ahead(run, settings, samples):
            # In the opposite order of the other process, so that as little as possible is waited for.
            none = none_images(run, samples)
            evaluators = train_open_evaluators(material, settings.evaluator, none, store, device)
            judge = train_judge(material, settings.evaluator, store, device)
        embedding, (of_train, of_reserve, of_known) = describing.result()
    peers = None
    if held.others is not None:
        others = Side(embedding.of_pixels(held.others.images, device), held.others.labels)
        peers = peers_of(Side(of_train, train.labels), others, Side(of_reserve, reserve.labels), run.seed)
    return Bench(
        judge,
        evaluators,
        judge.ceiling(reserve),
        evaluators.ceiling(reserve),
        embedding,
        calibrate(of_train, train.labels, of_reserve, reserve.labels),
        train,
        judge.features(unit(train.images)),
        of_train,
        reserve,
        of_reserve,
        known,
        of_known,
        RealSet(scaled(of_train)),
        RealSet(scaled(of_known[: len(public)])),
        peers,
    )


def beside(count: int) -> ThreadPoolExecutor:
    """Return ``count`` threads for work beside this one's, each computing alone: see ``THREADS``."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(THREADS,))


@dataclass(frozen=True)
class Inspected:
    """An exhibit as the evaluators see it.

    Attributes:
        exhibit: what the attacker shows.
        ahead: int64 [N], how many other classes E1 finds at least as likely as the intended one; K where the
            reconstruction failed, which is never a success.
        answers: int64 [N, 2], of the open evaluators; -1 where the reconstruction failed.
        seen: E1's penultimate features [N, F].
        features: E2's [N, G].
    """

    exhibit: Exhibit
    ahead: Tensor
    answers: Tensor
    seen: Tensor
    features: Tensor

    @property
    def sound(self) -> Tensor:
        """bool [N]: what did not fail."""
        return self.exhibit.failed.logical_not()


def inspect(exhibit: Exhibit, bench: Bench) -> Inspected:
    """Show an exhibit to all evaluators, a part at a time: of images times classes nothing is kept."""
    ahead, answers, seen, features = [], [], [], []
    for images, labels in zip(exhibit.images.split(CHUNK), exhibit.labels.split(CHUNK), strict=True):
        part = images.nan_to_num(0.0)
        logits, penultimate = bench.judge.read(part)
        ahead.append(others_ahead(logits, labels))
        seen.append(penultimate)
        answers.append(bench.open.read(part))
        features.append(bench.embedding(part.to(bench.judge.device)).cpu())
    return Inspected(
        exhibit,
        torch.cat(ahead).masked_fill(exhibit.failed, bench.judge.model.classes),
        torch.cat(answers).masked_fill(exhibit.failed[:, None], FAILED),
        torch.cat(seen),
        torch.cat(features),
    )
