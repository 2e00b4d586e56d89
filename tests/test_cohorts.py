"""Who trains with which defence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cohorts import Cohort, assign, check
from fedinverse.config import parse
from fedinverse.errors import ConfigError
from fedinverse.models import build


def cohort(**table: Any) -> Cohort:
    return parse(Cohort, table, "cohorts.0", "test.toml")


def members(assignment: dict[int, tuple[str, dict[str, Any]]], name: str) -> list[int]:
    return [client for client, (defence, _) in assignment.items() if defence == name]


def test_explicit_clients_and_complete_settings() -> None:
    given_ = assign([cohort(defence="bido_hsic", clients=[1, 3], settings={"lambda_y": 7})], 5, seed=0)
    assert list(given_) == [0, 1, 2, 3, 4]
    assert members(given_, "bido_hsic") == [1, 3]
    assert given_[1][1]["lambda_y"] == 7.0
    assert given_[1][1]["lambda_x"] == 2.0
    assert given_[0] == ("none", {})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(0, 1000), st.integers(1, 5))
def test_fractions_that_add_up_to_one_leave_nobody_out(clients: int, seed: int, parts: int) -> None:
    chosen = [
        cohort(defence="neg_label_smoothing", fraction=1 / parts, settings={"alpha": -0.01 * (i + 1)})
        for i in range(parts)
    ]
    given_ = assign(chosen, clients, seed, excluded=[clients - 1])
    assert members(given_, "none") == [clients - 1]
    sizes = [sum(entry[1].get("alpha") == -0.01 * (i + 1) for entry in given_.values()) for i in range(parts)]
    assert sum(sizes) == clients - 1
    assert max(sizes) - min(sizes) <= 1


def test_draw_follows_the_seed_alone() -> None:
    def draw(seed: int, **table: Any) -> list[int]:
        return members(
            assign([cohort(defence="bido_hsic", fraction=0.5, settings=table)], 20, seed, excluded={19}),
            "bido_hsic",
        )

    assert draw(1) == draw(1, lambda_x=9.0)
    assert draw(1) != draw(2)
    assert len(draw(1)) == round(0.5 * 19)
    assert 19 not in draw(1)


def test_lists_and_fractions_together() -> None:
    given_ = assign(
        [cohort(defence="bido_hsic", clients=[0, 1]), cohort(defence="bido_coco", fraction=0.5)], 10, seed=0
    )
    assert members(given_, "bido_hsic") == [0, 1]
    assert len(members(given_, "bido_coco")) == 5


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"defence": "bido_hsick", "clients": [0]}], "did you mean 'bido_hsic'"),
        (
            [{"defence": "bido_hsic", "clients": [0], "settings": {"lamda_x": 1}}],
            "cohorts.0.settings.lamda_x",
        ),
        ([{"defence": "bido_hsic", "clients": [0], "settings": {"sigma": 0.0}}], "'median'"),
        ([{"defence": "none", "fraction": 0.6}, {"defence": "none", "fraction": 0.6}], "add up to 1.2"),
        (
            [{"defence": "none", "clients": [1, 2]}, {"defence": "none", "clients": [2]}],
            "already in cohort 0",
        ),
        ([{"defence": "none", "clients": [1, 1]}], "already in cohort 0"),
        ([{"defence": "none", "clients": [10]}], "run from 0 to 9"),
        ([{"defence": "none", "clients": [9]}], "malicious"),
        (
            [{"defence": "none", "clients": [0, 1]}, {"defence": "none", "fraction": 1.0}],
            "only 7 are in no explicit",
        ),
        ([{"defence": "none"}], "either fraction or clients"),
        ([{"defence": "none", "fraction": 0.5, "clients": [1]}], "either fraction or clients"),
        ([{"defence": "none", "fraction": 0.0}], "greater than 0"),
    ],
)
def test_mistakes_are_named(tables: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign([cohort(**table) for table in tables], 10, seed=0, excluded=[9])


def test_check_asks_every_defence() -> None:
    model = build("mcnn", 10, 0.1, seed=0)
    check(assign([cohort(defence="bido_hsic", clients=[0])], 3, seed=0), model)
    with pytest.raises(ConfigError, match="mcnn_gn"):
        check(assign([cohort(defence="dp_sgd", clients=[2])], 3, seed=0), model)


def test_the_sweep_of_the_defences_runs_what_their_own_files_say() -> None:
    from fedinverse.house import CONFIGS
    from pipeline.experiment import load_experiment
    from pipeline.sweep import load_plan

    others = {"sweep", "matched", "matched-kedmi", "matched-augmented", "canaries"}
    files = {path.stem for path in (CONFIGS / "defences").glob("*.toml")} - others
    points = {point.label: point.experiment for point in load_plan("defences/sweep").points}
    assert points.keys() == files
    for name, point in points.items():
        alone = load_experiment(f"defences/{name}", [])
        for section in ("data", "population", "model", "training", "federation", "cohorts"):
            assert getattr(point, section) == getattr(alone, section)
        asked = ("iterations", "lr", "identity_loss", "initial_selection")  # what the sweep's tables were measured with
        assert point.attacks == {"gmi": alone.attacks["gmi"] | {key: point.attacks["gmi"][key] for key in asked}}


def test_a_deployed_nodes_own_config_carries_its_defence_with_settings(
    tmp_path: Path, tiny: Callable[..., Any]
) -> None:
    from flwr.app import Context, RecordDict
    from flwr.common.config import parse_config_args

    from clients.node import node_of
    from fedinverse.run import prepare
    from pipeline.deploy.commands import settings
    from pipeline.deploy.parties import node_configs
    from pipeline.experiment import resolved

    def node(text: str) -> Any:
        return node_of(Context(1, 5, parse_config_args([text]), RecordDict(), {}))

    chosen = cohort(defence="bido_hsic", clients=[1], settings={"lambda_y": 7.5, "sigma": "median"})
    run = prepare(tmp_path / "run", resolved(tiny(cohorts=[chosen.model_dump(mode="json", exclude_none=True)])))
    defended, plain = (node(settings(node_configs(run)[number])).defence() for number in (1, 2))
    assert (defended.name, plain.name) == ("bido_hsic", "none")
    assert defended.settings.model_dump()["lambda_y"] == 7.5
    assert defended.settings.model_dump()["sigma"] == "median"
    with pytest.raises(ConfigError, match=r"node config of client 3.*lamda.*lambda_x"):
        node('partition-id=3 data-path="x" defence="bido_hsic" defence-settings.lamda_x=1.0')
    with pytest.raises(ConfigError, match="did you mean 'bido_hsic'"):
        node('partition-id=3 data-path="x" defence="bido_hsick"')
