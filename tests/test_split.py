"""The split manifest: disjoint, seeded, complete; the attacker's world holds nothing of the victim."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr_datasets.partitioner import IidPartitioner
from PIL import Image

from fedinverse.client_data import shard_of
from fedinverse.config import Population, Split
from fedinverse.data import Pool, Request, open_source
from fedinverse.errors import ConfigError, DataError
from fedinverse.partition import _dealt, spread
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from fedinverse.seeds import derive
from fedinverse.shard import open_shard
from fedinverse.split import holdings, make_split
from pipeline.experiment import resolved
from report.run.partition import write_partition


@pytest.fixture
def run(tiny: Callable[..., Any], tmp_path: Path) -> Run:
    return prepare(tmp_path / "run", resolved(tiny()))


def test_no_image_is_in_two_parts_or_at_two_clients(run: Run) -> None:
    by_image = run.split.groupby("sha256")
    assert (by_image["part"].nunique() == 1).all()
    assert (by_image["client"].nunique() == 1).all()
    assert (run.split.loc[run.split["part"] != "train", "client"] == -1).all()
    assert (run.split.loc[run.split["part"] == "train", "client"] >= 0).all()


def test_only_the_victim_holds_the_victim_classes(run: Run) -> None:
    exclusive = run.split["label"].isin(run.population.victim_classes)
    holders = run.split[exclusive & (run.split["part"] == "train")]["client"].unique()
    assert holders.tolist() == [run.population.victim]
    for attacker in run.population.attackers:
        labels = shard_of(run, attacker, "with_victim").labels.tolist()
        assert labels
        assert not set(labels) & set(run.population.victim_classes)


def test_the_world_without_the_victim_changes_only_the_victim(run: Run) -> None:
    for client in range(run.population.clients):
        here, there = (shard_of(run, client, world) for world in ("with_victim", "without_victim"))
        if client == run.population.victim:
            assert not set(there.labels.tolist()) & set(run.population.victim_classes)
            assert 0 < len(there) < len(here)
        else:
            assert here.labels.tolist() == there.labels.tolist()


def test_parts_have_the_asked_shares(run: Run) -> None:
    shares = run.split["part"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.5, abs=0.02)
    assert shares["vault"] == pytest.approx(0.3, abs=0.02)
    assert len(part_of(run, "reserve", victim_only=True)) < len(part_of(run, "reserve"))


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "shards", "unequal", "pathological", "identity"])
def test_every_partition_scheme_gives_every_client_images_and_follows_the_seed(scheme: str) -> None:
    pool = open_source(Request("mnist", (1, 32, 32), limit=400))
    population = Population(clients=4, victim_classes=(0, 1), partition=scheme)  # type: ignore[arg-type]
    tables = [make_split(pool, Split(), population, seed) for seed in (0, 0, 1)]
    assert set(tables[0]["client"].unique()) == {-1, 0, 1, 2, 3}
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def dealt(classes: int, each: int, **population: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return images per client and class, int64 [clients, classes], of ``each`` images of every class."""
    labels = np.repeat(np.arange(classes), each)
    chosen = Population(victim_classes=(), malicious=0, **population)
    return holdings(pd.DataFrame({"client": spread(labels, chosen, 0), "label": labels}), chosen.clients, classes)


@pytest.mark.parametrize(("images", "clients"), [(403, 20), (7, 7), (100, 3)])
def test_iid_deals_as_flower_does(images: int, clients: int) -> None:
    chosen = Population(victim_classes=(), malicious=0, clients=clients, partition="iid")
    labels = np.arange(images) % 10
    theirs = _dealt(labels, IidPartitioner(clients), chosen, derive(5, "partition") % 2**31)
    assert (spread(labels, chosen, 5) == theirs).all()


def test_shards_are_the_originals() -> None:
    counts = dealt(10, 600, clients=100, partition="shards")  # a tenth of 200 shards of 300, two per client
    assert (counts.sum(1) == 60).all()
    assert set(np.unique(counts)) == {0, 30, 60}


def test_unequal_deals_between_1_and_30_of_12_shards_per_client() -> None:
    counts = dealt(10, 600, clients=100, partition="unequal")  # 1,200 shards of 5 images
    assert counts.sum() == 6000
    assert (counts % 5 == 0).all()
    images = counts.sum(1)
    assert images.min() >= 5
    assert images.max() <= 30 * 5
    assert images.max() > 10 * images.min()
    with pytest.raises(ConfigError, match="deals 1200 shards but only 500"):
        dealt(10, 50, clients=100, partition="unequal")


def test_by_identity_every_person_is_at_one_client() -> None:
    counts = dealt(10, 30, clients=4, partition="identity")
    assert ((counts > 0).sum(0) == 1).all()
    assert sorted((counts > 0).sum(1)) == [2, 2, 3, 3]
    with pytest.raises(ConfigError, match="only 10 are left for 11 clients"):
        dealt(10, 30, clients=11, partition="identity")


def test_overlap_gives_every_client_its_share_of_every_other(tiny: Callable[..., Any], tmp_path: Path) -> None:
    alone, shared = (
        prepare(tmp_path / f"{overlap}", resolved(tiny(population={"overlap": overlap}))) for overlap in (0.0, 0.8)
    )
    dealt = holdings(alone.split, 4, 10).sum(1)
    for client in range(4):
        others = [other for other in range(4) if other != client]
        exclusive = alone.split["label"].isin((0, 1)) & (alone.split["client"] == 0)
        lent = dealt - np.array([int(exclusive.sum()), 0, 0, 0])
        expected = dealt[client] + sum(int(0.8 * lent[other]) for other in others)
        # Copies of an image follow its first one, so a few may differ.
        assert len(shard_of(shared, client, "with_victim")) == pytest.approx(expected, abs=2)
    for attacker in shared.population.attackers:
        assert not set(shard_of(shared, attacker, "with_victim").labels.tolist()) & {0, 1}
    assert (shared.split["client"] == alone.split["client"]).all()


def test_the_partition_is_drawn_and_tabled(run: Run) -> None:
    write_partition(run)
    table = pd.read_csv(run.files.partition_table)
    assert table["role"].tolist() == ["victim", "honest", "honest", "attacker"]
    assert table["images"].tolist() == [len(shard_of(run, client, "with_victim")) for client in range(4)]
    assert table[["0", "1"]].iloc[1:].to_numpy().sum() == 0
    with Image.open(run.files.partition_picture) as picture:
        assert min(picture.size) > 200


def test_copies_of_an_image_stay_together(tmp_path: Path) -> None:
    pool = open_source(Request("mnist", (1, 32, 32), limit=400))
    copied = np.array(pool.images)
    copied[1::2] = copied[::2]  # every second image repeats the one before

    class Doubled:
        images, labels, class_names = copied, pool.labels, pool.class_names

    table = make_split(Doubled(), Split(), Population(clients=4, victim_classes=(0, 1)), 0)  # type: ignore[arg-type]
    assert (table.groupby("sha256")["client"].nunique() == 1).all()
    assert (table.groupby("sha256")["part"].nunique() == 1).all()


def test_a_cleared_cache_is_filled_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.pools["private"].images[:5]
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "empty"))
    again = Run(run.path).pools["private"]
    assert again.path.is_relative_to(tmp_path / "empty")
    assert (again.images[:5] == before).all()


def test_another_configuration_in_the_same_place_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    prepare(tmp_path / "run", resolved(tiny()))
    prepare(tmp_path / "run", resolved(tiny()))
    with pytest.raises(ConfigError, match=r"differs in training\.lr"):
        prepare(tmp_path / "run", resolved(tiny(training={"lr": 0.1})))


def test_a_public_set_that_shows_the_victim_is_refused(tiny: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shares the classes 0, 1.*allow_overlap"):
        prepare(tmp_path / "run", resolved(tiny(data={"public": "mnist"})))
    assert not (tmp_path / "run").exists()
    prepare(tmp_path / "run", resolved(tiny(data={"public": "mnist", "allow_overlap": True})))


def test_an_altered_pool_is_noticed() -> None:
    pool = open_source(Request("glyphs", (1, 32, 32), limit=53, seed=99))
    pool.verify()
    path = pool.path / "labels.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(DataError, match="altered"):
            pool.verify()
    finally:
        path.write_bytes(whole)  # the cache may outlive the test


def test_a_pool_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="moved: there are no prepared images"):
        Pool(tmp_path / "moved").verify()


def test_a_node_without_data_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images\.npy and labels\.npy"):
        open_shard(tmp_path)
