"""Everything the tests share: one small cache per session, one small experiment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distribution import Groups, place

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data": {"private_limit": 400, "public_limit": 200},
    "population": {"clients": 4, "victim_classes": [0, 1]},
    "model": {"name": "mcnn", "width": 0.1},
    "training": {"batch_size": 16, "lr": 0.05},
    "federation": {"rounds": 3, "fraction_train": 0.5},
    "engine": {"kind": "local"},
    "attacker": {"rounds": "last", "restarts": 2, "processes": 1, "threads": 1},
    "attacks": {
        "gmi": {
            "kind": "gmi",
            "iterations": 3,
            "identity_loss": "max_margin",
            "prior": {"width": 0.1, "steps": 2, "critic_steps": 1, "batch_size": 8},
        }
    },
    "audit": {"without_victim": False, "unaided_steps": 2, "evaluator": {"width": 0.1, "epochs": 1}},
}

ATTACKED: dict[str, Any] = {  # what the session's attacked run changes of it
    "attacker": {"rounds": [2, 3], "classes": [0, 1, 2]},
    "attacks": {"second": {**TINY["attacks"]["gmi"], "iterations": 2}},
    "audit": {"without_victim": True, "primary": {"attack": "gmi"}},
    "cohorts": [{"defence": "neg_label_smoothing", "fraction": 0.5}],
}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Let pytest-xdist hand out the tests in groups."""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups that take longest first."""
    items.sort(key=lambda item: place(item.nodeid))


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that tests start share the cores with other workers
    os.environ.setdefault("FEDINVERSE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def ray_engine() -> Any:
    """The module of the engine on Ray; as in a run, Ray is imported once the environment says who may connect."""
    from pipeline.engines.engine import quiet

    os.environ.update(quiet(os.environ))
    from pipeline.engines import ray

    return ray


@pytest.fixture
def modules_of_apps() -> Iterator[None]:
    """Have a test import the apps it audits anew."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("signs", "digits", "tiles", "mini", "mini_hook", "mini_user"):
            del sys.modules[name]


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


def run_in(directory: Path, **changes: Any) -> Any:
    """Run the tiny experiment with ``changes`` in ``directory`` and return its run."""
    import tomli_w

    from fedinverse.run import Run
    from pipeline.experiment import load_experiment
    from pipeline.stages.all_stages import run_all

    path = directory / "tiny.toml"
    path.write_text(tomli_w.dumps(merged(TINY, changes)))
    return Run(run_all(load_experiment(str(path), [], directory / "runs"), resume=False).parent)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install ``examples/plugins`` into a directory of its own; return it."""
    place = tmp_path_factory.mktemp("installed")
    # A copy: setuptools writes beside what it builds.
    shutil.copytree(Path(__file__).parent.parent / "examples" / "plugins", place / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(place / "site"), str(place / "source")], check=True)
    return place / "site"


@pytest.fixture(scope="session")
def attacked_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a finished run of two attacks on two rounds, three classes and both worlds; nobody alters it."""
    return run_in(tmp_path_factory.mktemp("attacked"), **ATTACKED)


@pytest.fixture(scope="session")
def unattacked_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a finished run without attackers; nobody alters it."""
    return run_in(tmp_path_factory.mktemp("unattacked"), attacks=None, population={"malicious": 0})


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a Chromium with one page (``tests/browser.py``); where none is installed, skip and say so."""
    from browser import Browser

    from report.pdf import BROWSERS, find_browser

    executable = find_browser()
    if executable is None:
        reason = f"none of {', '.join(BROWSERS)} is in PATH and FEDINVERSE_CHROMIUM names no browser"
        print(reason)
        pytest.skip(reason)
    with Browser(executable) as opened:
        yield opened


@pytest.fixture(params=["attacked_run", "unattacked_run"])
def either(request: pytest.FixtureRequest) -> Any:
    """Return the attacked, then the unattacked run."""
    return request.getfixturevalue(request.param)


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
