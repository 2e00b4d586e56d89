"""Everything the tests share: one small cache per session, one small experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data": {"private_limit": 400, "public_limit": 200},
    "population": {"clients": 4, "victim_classes": [0, 1]},
    "model": {"name": "mcnn", "width": 0.1},
    "training": {"batch_size": 16, "lr": 0.05},
    "federation": {"rounds": 3, "fraction_train": 0.5},
    "engine": {"kind": "local"},
    "attacker": {"rounds": "last", "restarts": 2, "threads": 1},
    "attacks": {
        "gmi": {
            "kind": "gmi",
            "iterations": 3,
            "identity_loss": "max_margin",
            "prior": {"width": 0.1, "steps": 2, "critic_steps": 1, "batch_size": 8},
        }
    },
    "audit": {"without_victim": False, "evaluator": {"width": 0.1, "epochs": 1}},
}


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    import os

    os.environ.setdefault("FEDINVERSE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _a_server_process() -> None:
    """Flower's messages ask in whose process they are made."""
    from pipeline.engines.simulated import server_context

    server_context()


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, table by table; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
            continue
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if nested else value
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that loads the tiny experiment with changes, writing its TOML into the test's directory."""
    import tomli_w

    from pipeline.experiment import load_experiment

    def load(**changes: Any) -> Any:
        path = tmp_path / "tiny.toml"
        path.write_text(tomli_w.dumps(merged(TINY, changes)))
        return load_experiment(str(path), [], tmp_path / "runs")

    return load
