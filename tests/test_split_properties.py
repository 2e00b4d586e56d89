"""Whatever the classes, clients, scheme and seed: every image is in one part and in the right hands, or refused."""

from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedinverse.config import Population, Split
from fedinverse.errors import ConfigError
from fedinverse.partition import spread
from fedinverse.split import NOBODY, make_split

SCHEMES = get_args(Population.model_fields["partition"].annotation)


def pool_of(images: Any, labels: Any, population: Population) -> Any:
    """A private source that knows clients: the victim's classes are theirs, the other images everybody's in turn."""
    holders = np.arange(len(labels)) % population.clients
    holders[np.isin(labels, population.victim_classes)] = population.victim
    return SimpleNamespace(
        images=images,
        labels=labels,
        class_names=tuple(map(str, range(labels.max() + 1))),
        holders=holders,
        client_names=tuple(map(str, range(population.clients))),
    )


@st.composite
def cases(draw: Any) -> tuple[Any, Split, Population, int]:
    counts = draw(st.lists(st.integers(3, 60), min_size=3, max_size=6))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 1, 2, 2)  # all different
    vault, reserve = draw(st.sampled_from([(0.3, 0.2), (0.1, 0.1), (0.2, 0.5)]))
    population = Population(
        clients=draw(st.integers(2, 8)),
        victim_classes=tuple(range(draw(st.integers(1, len(counts) - 1)))),
        partition=draw(st.sampled_from(SCHEMES)),
        alpha=draw(st.sampled_from([0.1, 1.0, 100.0])),
        classes_per_client=draw(st.integers(1, 2)),
    )
    return (
        pool_of(images, labels, population),
        Split(train=1 - vault - reserve, vault=vault, reserve=reserve),
        population,
        draw(st.integers(0, 2**31 - 1)),
    )


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_a_split_deals_every_image_once_or_refuses(case: tuple[Any, Split, Population, int]) -> None:
    pool, split, population, seed = case
    try:
        table = make_split(pool, split, population, seed)
    except ConfigError:  # too few images for so many clients or parts
        return
    assert table["row"].tolist() == list(range(len(pool.labels)))
    assert table["label"].tolist() == pool.labels.tolist()
    assert set(table["part"]) <= {"train", "vault", "reserve", "unused"}
    held = table["client"] != NOBODY
    assert (held == (table["part"] == "train")).all()
    assert table.loc[held, "client"].between(0, population.clients - 1).all()
    exclusive = table["label"].isin(population.victim_classes)
    assert (table.loc[held & exclusive, "client"] == population.victim).all()
    for _, of_class in table.groupby("label"):  # every class is in the vault and in reserve
        assert {"vault", "reserve"} <= set(of_class["part"])
    for part in ("vault", "reserve"):
        wanted = sum(round(len(of_class) * getattr(split, part)) for _, of_class in table.groupby("label"))
        assert (table["part"] == part).sum() == wanted
    assert make_split(pool, split, population, seed).equals(table)


def test_more_shards_than_images_are_refused() -> None:
    population = Population(clients=4, victim_classes=(0,), partition="shards", classes_per_client=2)
    with pytest.raises(ConfigError, match="deals 8 shards but only 7 images are left"):
        spread(np.arange(1, 8), population, 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_can_deal_something(scheme: Any) -> None:
    labels = np.repeat(np.arange(4), 60)
    images = np.arange(240, dtype=np.uint32).view(np.uint8).reshape(-1, 1, 2, 2)
    population = Population(clients=2, victim_classes=(0,), partition=scheme, classes_per_client=2)
    assert (make_split(pool_of(images, labels, population), Split(), population, 0)["part"] == "train").any()
