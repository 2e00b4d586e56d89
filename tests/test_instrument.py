"""The instrument judged: on models really trained and really attacked, it finds the leak that was planted and no other.

Every test can fail, and says how: a scorer that does not subtract the false positives, a control that is not what it
claims to be, a judge that knows the images it judges.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from attacker.attacks.registry import make_attack
from attacker.priors.prior import Prior
from attacker.target import PublicSet, Target
from auditor.arms import Key
from auditor.bench import Bench, inspect, open_bench
from auditor.controls import permuted, reserve_exhibit
from auditor.evaluators import ahead as ahead_module
from auditor.evaluators import evaluator, open_set
from auditor.evaluators.embedding import embedding_of
from auditor.evaluators.evaluator import train_judge
from auditor.evaluators.material import material_of
from auditor.evaluators.open_set import FAILED, none_images, train_open_evaluators
from auditor.evidence import Exhibit
from auditor.judgement import judge
from auditor.metrics.figures import class_figures, measure
from auditor.metrics.names import (
    ACCURACY,
    DISAGREEMENT,
    FID_PUBLIC,
    FID_VICTIM,
    KID_VICTIM,
    KNN,
    MEMBER,
    METRICS,
    NONE,
    OF_SHARED,
    OPEN,
    TOP5,
    WHOLE_SET,
)
from auditor.scores import score
from auditor.settings import Audit, Evaluator
from auditor.verdict import Interval, Verdict
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.layout import World
from fedinverse.models import Classifier, build, for_inference
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.storage import read_metadata, save_hashed, save_weights
from pipeline.experiment import load_experiment, resolved
from pipeline.stages.invert import plan_of

CPU = torch.device("cpu")
RESTARTS = 3
SETTINGS = [
    "data.private_limit=1000",
    "data.public_limit=100",
    "model.width=0.2",
    "audit.evaluator.width=0.25",
    "audit.evaluator.epochs=12",
    "audit.primary.metric=attack-accuracy",
    "population.victim_classes=[0, 1, 2, 3, 4, 5, 6, 7]",  # with five, one class that fails hides a leak
]


class Bank(nn.Module):
    """A prior that can express what it was given: mixtures of real images, z [N, M] -> [N, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.register_buffer("images", images)

    def forward(self, z: Tensor) -> Tensor:
        shares = (6 * z).softmax(1)
        return torch.einsum("nm,mchw->nchw", shares, self.get_buffer("images"))


class NoCritic(nn.Module):
    """Finds every image equally natural."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images))


@dataclass(frozen=True)
class Laboratory:
    """A small split, its auditor, and an attacker whose prior can express the victim's images and others."""

    run: Run
    bench: Bench
    prior: Prior

    @property
    def victims(self) -> tuple[int, ...]:
        return self.run.population.victim_classes

    @cache  # noqa: B019 - one laboratory per module
    def model(self, world: World, seed: int = 0) -> Classifier:
        """A model trained on all clients' images, in the world without the victim on all but theirs."""
        shard = part_of(self.run, "train")
        if world == "without_victim":
            rows = ~torch.isin(shard.labels, torch.tensor(self.victims))
            shard = Shard(shard.images[rows], shard.labels[rows])
        network, settings = self.untrained(seed), Training(epochs=8, lr=0.05, momentum=0.9)
        train(network, shard, settings, make_defence("none", {}, "test"), generator(seed, "laboratory", world))
        return network

    def untrained(self, seed: int) -> Classifier:
        return build(self.run.model.name, len(self.run.class_names), self.run.model.width, seed)

    def attacked(self, arm: Key, network: Classifier, seed: int = 0) -> Exhibit:
        """What GMI makes of ``network``."""
        attack = make_attack(
            {"kind": "gmi", "iterations": 80, "lr": 1e-3, "identity_loss": "max_margin"}, "gmi", "test"
        )
        labels = torch.tensor(self.victims).repeat_interleave(RESTARTS)
        target = Target(for_inference(network), "", 1, CPU)
        public = PublicSet(self.run.pools["public"].tensor(), "public")
        result = attack.invert(target, self.prior, public, labels, generator(seed, "attack"))
        world: World = "without_victim" if arm == "B2" else "with_victim"
        return Exhibit(arm, world, 1, "gmi", result.images, labels, result.confidence, result.failed)

    def unoptimised(self) -> Exhibit:
        labels = torch.tensor(self.victims).repeat_interleave(RESTARTS)
        images = self.prior.sample(len(labels), generator(0, "attack"), CPU)
        sure = torch.full((len(labels),), 0.1)
        return Exhibit("B0", "with_victim", 1, "gmi", images, labels, sure, torch.zeros(len(labels)).bool())

    def accuracy(self, network: Classifier) -> float:
        """The gate: accuracy on the victim classes' reserve images."""
        rows = torch.isin(self.bench.reserve.labels, torch.tensor(self.victims))
        with torch.inference_mode():
            answers = for_inference(network)(unit(self.bench.reserve.images[rows])).argmax(1)
        return float((answers == self.bench.reserve.labels[rows]).float().mean())

    def verdict(self, exhibits: list[Exhibit], known: float) -> Verdict:
        """Score the exhibits beside the ceiling and judge."""
        scored = score([*exhibits, reserve_exhibit(self.bench, self.victims, 1)], self.bench, self.run.seed)
        mine = scored.table[scored.table["label"].isin(self.victims)]
        primary, classes = self.run.section("audit", Audit).primary, len(self.run.class_names)
        return judge(mine, primary, {1: known}, classes=classes, omitted=scored.omitted)


def prepared(out: Path, *settings: str) -> Run:
    experiment = load_experiment("quickstart", [*SETTINGS, *settings], out)
    return prepare(out / experiment.name, resolved(experiment))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    run = prepared(tmp_path_factory.mktemp("laboratory"))
    bench = open_bench(run, run.section("audit", Audit), [])
    everyone = part_of(run, "train")
    rows = torch.cat([(everyone.labels == label).nonzero().flatten()[:10] for label in range(len(run.class_names))])
    images = unit(everyone.images[rows])
    prior = Prior("bank", Bank(images), NoCritic(), len(images), (1, 32, 32), "bank")
    return Laboratory(run, bench, prior)


def leakage(verdict: Verdict) -> Interval:
    interval = verdict.points[0].leakage
    assert isinstance(interval, Interval)
    return interval


def shares(exhibit: Exhibit, lab: Laboratory, metric: str = ACCURACY) -> float:
    table = score([exhibit], lab.bench, 0).table
    return float(table.loc[table["metric"] == metric, "value"].mean())


# ------------------------------------------------------------------ what is there is found, what is not there is not


def test_a_planted_leak_is_found(lab: Laboratory) -> None:
    # Fails if the evaluator cannot read, if the arms are mixed up, or if a leak this plain is called anything else.
    network = lab.model("with_victim")
    attack = lab.attacked("A", network)
    verdict = lab.verdict(
        [attack, lab.unoptimised(), lab.attacked("B2", lab.model("without_victim"))], lab.accuracy(network)
    )
    assert verdict.outcome == "leak", verdict.reasons
    assert leakage(verdict).low > 0
    # The prior holds the training images themselves: they are nearer than the reserve. Half if the two are mixed up.
    assert shares(attack, lab, MEMBER) > 0.55


def test_an_untrained_target_leaks_nothing(lab: Laboratory) -> None:
    # The same prior, so single successes occur: fails if they are counted without what B2 has by the same luck.
    attack, control = lab.attacked("A", lab.untrained(1)), lab.attacked("B2", lab.untrained(2), seed=1)
    verdict = lab.verdict([attack, lab.unoptimised(), control], lab.accuracy(lab.untrained(1)))
    assert leakage(verdict).low <= 0 <= leakage(verdict).high
    assert shares(attack, lab) > 0  # there is something to subtract
    assert verdict.outcome == "inconclusive"
    assert any("not learned yet" in reason for reason in verdict.reasons)


def test_equal_worlds_leak_nothing(lab: Laboratory) -> None:
    # W1 is W0, trained again with another seed: fails if what an attack makes of any trained model counts as leakage.
    attack = lab.attacked("A", lab.model("without_victim", 1), seed=1)
    control = lab.attacked("B2", lab.model("without_victim"))
    verdict = lab.verdict([attack, lab.unoptimised(), control], 1.0)
    assert leakage(verdict).low <= 0 <= leakage(verdict).high
    assert verdict.outcome != "leak"


def test_permuted_labels_score_at_chance_and_a_broken_control_is_noticed(lab: Laboratory) -> None:
    # Fails if B5 keeps the right labels, or if the judge says yes to whatever label it is asked about.
    network = lab.model("with_victim")
    attack, control = lab.attacked("A", network), lab.attacked("B2", lab.model("without_victim"))
    wrong = permuted(attack)
    assert torch.equal(wrong.labels.unique(), attack.labels.unique())
    assert shares(wrong, lab) <= 1 / len(lab.run.class_names)
    others = [attack, lab.unoptimised(), control]
    assert lab.verdict([*others, wrong], 1.0).outcome == "leak"
    unpermuted = lab.verdict([*others, replace(attack, arm="B5")], 1.0)
    assert unpermuted.outcome == "inconclusive"
    assert "evaluator cannot be trusted" in unpermuted.reasons[0]


def test_every_figure_is_documented_and_in_its_range(lab: Laboratory) -> None:
    # Fails if a metric is renamed in one place only, leaves its range, or a figure that cannot be had is filled in.
    scored = score(
        [lab.attacked("A", lab.model("with_victim")), reserve_exhibit(lab.bench, lab.victims, 1)], lab.bench, 0
    )
    scored_here = {*scored.table["metric"], *(each.metric for each in scored.omitted)}
    assert scored_here == set(METRICS.registered()) - set(OF_SHARED)
    assert {each.metric for each in scored.omitted} == {TOP5, FID_PUBLIC, FID_VICTIM}
    for name, rows in scored.table.groupby("metric"):
        metric = METRICS.get(str(name))
        assert set(rows["label"]) <= ({WHOLE_SET} if metric.whole else set(lab.victims)), name
        assert rows["value"].notna().all(), name
        if metric.share:
            assert rows["value"].between(0, 1).all(), name
    table = scored.table.set_index(["arm", "metric"]).sort_index()["value"]
    assert table["A", KNN].mean() < table["CEIL", KNN].mean()  # the planted images are nearer than others of the class
    assert table["CEIL", KID_VICTIM].mean() < table["A", KID_VICTIM].mean()


# ------------------------------------------------------------------ evaluators that may answer "none of these"


def test_the_open_evaluators_refuse_what_shows_no_class_and_read_what_does(lab: Laboratory) -> None:
    # Fails if "none of these" is a class among others, if one evaluator's word is enough, or if real images go there.
    public = unit(lab.run.pools["public"].tensor())
    labels = torch.tensor(lab.victims).repeat_interleave(len(public) // len(lab.victims))
    sure, fine = torch.ones(len(labels)), torch.zeros(len(labels), dtype=torch.bool)
    letters = Exhibit("B4", "with_victim", 1, "gmi", public[: len(labels)], labels, sure, fine)
    assert shares(letters, lab, OPEN) <= 0.05
    assert shares(letters, lab, NONE) > 0.6
    real = reserve_exhibit(lab.bench, lab.victims, 1)
    assert shares(real, lab, OPEN) > 0.6
    assert shares(real, lab, OPEN) <= shares(real, lab, ACCURACY) + 0.1
    assert shares(real, lab, NONE) < 0.1
    one, other = lab.bench.open.read(real.images).unbind(1)
    assert shares(real, lab, DISAGREEMENT) == pytest.approx(float((one != other).double().mean()), abs=0.05)


def test_an_image_counts_as_a_class_only_where_both_agree(lab: Laboratory) -> None:
    # By hand: both right, one right, both right but for another class, both none, failed.
    real = reserve_exhibit(lab.bench, lab.victims, 1)
    answers = torch.tensor([[0, 0], [0, 1], [1, 1], [10, 10], [0, 0]])
    images, failed = real.images[:5], torch.tensor([False, False, False, False, True])
    exhibit = Exhibit("A", "with_victim", 1, "gmi", images, torch.zeros(5, dtype=torch.int64), torch.ones(5), failed)
    seen = replace(inspect(exhibit, lab.bench), answers=answers.masked_fill(failed[:, None], FAILED))
    figures = {each.metric: each.value for each in class_figures(seen, lab.bench, measure(seen, lab.bench))}
    assert (figures[OPEN], figures[DISAGREEMENT], figures[NONE]) == (0.2, 0.2, 0.2)


def test_no_image_of_a_private_class_teaches_none_of_these(lab: Laboratory, tmp_path: Path) -> None:
    # Fails if public images of shared classes are left in, or if a file of something else passes for samples.
    samples = torch.randint(256, (7, 1, 32, 32), dtype=torch.uint8).numpy()
    save_weights(tmp_path / "samples.safetensors", {"images": samples}, {})
    none = none_images(lab.run, [tmp_path / "samples.safetensors"])
    assert len(none) == len(lab.run.pools["public"].labels) + 7
    experiment = load_experiment(
        "quickstart", [*SETTINGS, "data.public=mnist", "data.public_limit=400", "data.allow_overlap=true"], tmp_path
    )
    shared = prepare(tmp_path / "shared", resolved(experiment))
    assert len(none_images(shared, [])) == 0
    for name, arrays in (("float", {"images": samples / 255}), ("other", {"latent": samples})):
        save_weights(tmp_path / f"{name}.safetensors", arrays, {})
        with pytest.raises(IntegrityError, match=rf"{name}.safetensors: holds no samples"):
            none_images(lab.run, [tmp_path / f"{name}.safetensors"])


def test_open_evaluators_are_shared_by_seeds_and_differ_with_what_none_is(
    lab: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails if the run's seed is part of their key, or if what "none of these" looks like is not.
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    settings = lab.run.section("audit", Audit).evaluator.model_copy(update={"epochs": 1})
    none = none_images(lab.run, [])

    def names(run: Run, images: Tensor) -> set[str]:
        store = tmp_path / f"store-{run.seed}-{len(images)}"
        train_open_evaluators(material_of(run, settings), settings, images, store)
        return {path.name for path in store.iterdir()}

    def reseeded(manifest: pd.DataFrame) -> None:
        del manifest

    other = altered(lab, reseeded, tmp_path / "run")
    other.files.config.write_text(other.files.config.read_text().replace('"seed": 0', '"seed": 5'))
    first = names(lab.run, none)
    assert len(first) == 2
    assert names(Run(other.path), none) == first
    assert len(list((tmp_path / "cache" / "evaluators").glob("open-*.safetensors"))) == 2
    assert not names(lab.run, none[1:]) & first


def test_runs_that_share_a_data_seed_share_images_and_all_evaluators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails if the run's seed draws an image of vault or reserve, a kept sample, or is part of an evaluator's key.
    plain, fitted = evaluator.fit, list[Classifier]()

    def fit(network: Classifier, *arguments: Any) -> None:
        fitted.append(network)
        plain(network, *arguments)

    for module in (evaluator, open_set):
        monkeypatch.setattr(module, "fit", fit, raising=False)
    runs = [prepared(tmp_path / str(seed), f"seed={seed}", "data.seed=7") for seed in (1, 2)]
    parts = [run.split[["row", "sha256", "part"]] for run in runs]
    assert parts[0].equals(parts[1])
    assert not runs[0].split["client"].equals(runs[1].split["client"])
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    for run in runs:
        settings = run.section("audit", Audit).evaluator.model_copy(update={"epochs": 1})
        assert plan_of(run).keeping_seed == 7
        train_judge(material_of(run, settings), settings, run.files.auditor.root)
        train_open_evaluators(material_of(run, settings), settings, none_images(run, []), run.files.auditor.root)
        embedding_of(run)
    assert len(fitted) == 3
    assert len(list((tmp_path / "cache" / "embeddings").glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("second", "reason"), [("mcnn", "target's own"), ("scnn", "first evaluator's"), ("vgg16", "takes images")]
)
def test_a_second_evaluator_that_says_nothing_new_is_refused(lab: Laboratory, second: str, reason: str) -> None:
    refused(lab.run, lab.run.section("audit", Audit).evaluator.model_copy(update={"second": second}), reason)


# ------------------------------------------------------------------ a judge that is not independent is refused


def refused(run: Run, settings: Evaluator, reason: str) -> None:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ConfigError, match=reason):
        material_of(run, settings)
    assert sorted(run.path.rglob("*")) == before


def altered(lab: Laboratory, change: Callable[[pd.DataFrame], None], path: Path) -> Run:
    """A run like the laboratory's but for its manifest; the same E1 lies in the cache."""
    shutil.copytree(lab.run.path, path, ignore=shutil.ignore_patterns("audit"))
    manifest = pd.read_parquet(path / "split.parquet")
    change(manifest)
    save_hashed(path / "split.parquet", manifest.to_parquet(index=False))
    return Run(path)


def test_an_evaluator_of_the_targets_architecture_is_refused(lab: Laboratory) -> None:
    # Fails if only the settings' file, and not what is about to be used, were checked.
    settings = lab.run.section("audit", Audit).evaluator
    refused(lab.run, settings.model_copy(update={"model": lab.run.model.name}), "target's own architecture")


@pytest.mark.parametrize("part", ["vault", "reserve"])
def test_an_evaluator_that_knows_a_clients_image_is_refused(part: str, lab: Laboratory, tmp_path: Path) -> None:
    # The vault's images are the same, so E1 is in the cache: fails if the check came after the look-up.
    def leaked(manifest: pd.DataFrame) -> None:
        manifest.loc[manifest.index[manifest["part"] == part][0], "client"] = 3

    run = altered(lab, leaked, tmp_path / "run")
    refused(run, run.section("audit", Audit).evaluator, f"{part} is held by a client")


def test_an_image_in_two_parts_is_refused(lab: Laboratory, tmp_path: Path) -> None:
    # Fails if copies are told apart by their row and not by their pixels.
    def copied(manifest: pd.DataFrame) -> None:
        parts = [manifest.index[manifest["part"] == part][0] for part in ("vault", "reserve")]
        manifest.loc[parts[1], "sha256"] = manifest.loc[parts[0], "sha256"]

    run = altered(lab, copied, tmp_path / "run")
    refused(run, run.section("audit", Audit).evaluator, "more than one part")


def test_evaluators_are_trained_before_anything_is_inverted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fails if the process trains others than the audit would, or does not wait for the samples.
    monkeypatch.setattr(ahead_module, "WORTH", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    run, samples = prepared(tmp_path, "audit.evaluator.epochs=1"), [tmp_path / "samples.safetensors"]
    settings, store = run.section("audit", Audit), run.files.auditor.root

    def wait_for(count: int) -> dict[str, str]:
        deadline = time.monotonic() + 120
        while len(trained := hashes_of_evaluators(store)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return trained

    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    with ahead_module.Ahead(run, settings, samples) as ahead:
        assert len(wait_for(1)) == 1
        assert ahead.trains_with(samples)
        assert not ahead.trains_with([])
        save_weights(samples[0], {"images": np.zeros((1, 1, 32, 32), np.uint8)})
        beforehand = wait_for(3)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with ahead_module.Ahead(run, settings, samples) as ahead:
        assert not ahead.trains_with(samples)

    shutil.rmtree(store)
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "another"))
    open_bench(run, settings, samples)
    assert hashes_of_evaluators(store) == beforehand


def hashes_of_evaluators(store: Path) -> dict[str, str]:
    """The evaluators of a run by name."""
    return {path.name: str(read_metadata(path)["sha256"]) for path in store.glob("evaluator-*.safetensors")}


def test_the_evaluator_comes_from_the_cache_and_does_not_depend_on_threads(
    lab: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fails if training takes the process's thread count, leaves it changed, or is done again in every run.
    run, settings = lab.run, lab.run.section("audit", Audit).evaluator.model_copy(update={"epochs": 1})
    evaluators = []
    for threads in (1, 3):
        monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / f"cache-{threads}"))
        torch.set_num_threads(threads)
        try:
            train_judge(material_of(run, settings), settings, tmp_path / f"run-{threads}")
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        (path,) = (tmp_path / f"run-{threads}").iterdir()
        evaluators.append((path.name, read_metadata(path)["sha256"]))
    assert evaluators[0] == evaluators[1]
    (stored,) = (tmp_path / "cache-1" / "evaluators").glob("*.safetensors")
    stored.write_bytes(next((tmp_path / "cache-3" / "evaluators").glob("*.safetensors")).read_bytes()[:100])
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache-1"))
    with pytest.raises(IntegrityError, match="evaluators"):  # read, not trained
        train_judge(material_of(run, settings), settings, tmp_path / "another")
