"""Names from this repository, from a user's module and from an installed package; what goes wrong is said once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
import torch
from conftest import TINY, merged

from attacker.attacks.registry import attack_names, make_attack
from attacker.losses.identity import IdentityLoss
from auditor.settings import Audit
from clients.defences import defence_class, defence_names
from fedinverse.config import parse
from fedinverse.data import source_of
from fedinverse.errors import ConfigError
from fedinverse.models import Features, same_network, spec_of
from fedinverse.registry import Registry, search_path
from fedinverse.storage import read_jsonl
from strategies import Aggregation, make_strategy

ROOT = Path(__file__).parent.parent


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that writes a module where this process finds it."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_name_has_one_owner() -> None:
    letters: Registry[int] = Registry("letter", "fedinverse.letters", "a number", lambda imported: None)
    letters.register("a", 1, "first")
    letters.register("a", 2, "first")  # the module is loaded again
    assert letters.get("a") == 2
    with pytest.raises(ConfigError, match="'a' of module second: the name is taken by module first"):
        letters.register("a", 3, "second")
    with pytest.raises(ConfigError, match="colon"):
        letters.register("a:b", 3, "second")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (":mcnn", "'' is no module name"),
        ("..secrets:mcnn", r"'\.\.secrets' is no module name"),
        ("a b:mcnn", "'a b' is no module name"),
        ("no_such_module:mcnn", "module 'no_such_module' cannot be imported .*PYTHONPATH"),
        ("raises_on_import:Net", "module 'raises_on_import' fails while it is imported .ZeroDivisionError"),
        ("exits_on_import:Net", "module 'exits_on_import' fails while it is imported .SystemExit"),
        ("os:abort", "'abort' of module 'os' is not a network"),
        ("fedinverse.models.mcnn:MCN", "did you mean 'MCNN'"),
        ("mcn", "did you mean 'mcnn'"),
        ("torchvision.models.resnet:resnet18", "'resnet18' of module 'torchvision.models.resnet' is not a network"),
    ],
)
def test_a_name_that_is_nothing_is_one_message(name: str, said: str, module: Any) -> None:
    module("raises_on_import", "1 / 0")
    module("exits_on_import", "raise SystemExit(3)")
    with pytest.raises(ConfigError, match=f"model '{name}'.*{said}" if ".." not in name else said) as caught:
        spec_of(name)
    assert "\n" not in str(caught.value)


def test_every_kind_takes_a_module_of_the_users(module: Any) -> None:
    module(
        "mine",
        "from clients.defences import Defence\n"
        "from attacker.attacks.gmi import GMI\n"
        "from flwr.serverapp.strategy import FedAvg\n"
        "from fedinverse.data.source import register as source\n"
        "class Same(Defence): pass\n"
        "class Alike(GMI): pass\n"
        "class Mean(FedAvg): pass\n"
        "def flat(seen, labels): return seen.logits.sum(1)\n"
        "@source('grey', 1, 'nowhere')\n"
        "def grey(request): return None\n",
    )
    assert defence_class("mine:Same").name == "mine:Same"
    assert make_attack({"kind": "mine:Alike"}, "attacks.a", "test").name == "mine:Alike"
    assert source_of("mine:grey").name == "grey"
    assert make_attack({"kind": "gmi", "identity_loss": "mine:flat"}, "attacks.a", "test").settings.rate == 2e-3
    seen = Features((), torch.zeros(2, 1), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert IdentityLoss("mine:flat")(seen, torch.tensor([0, 1])).tolist() == [3, 7]
    with pytest.raises(ConfigError, match=r"identity_loss': .*'abort' of module 'os' is not a function"):
        make_attack({"kind": "gmi", "identity_loss": "os:abort"}, "attacks.a", "test")
    with pytest.raises(ConfigError, match=r"metrics': .*'fid-victim' is in every audit"):
        parse(Audit, {"metrics": ["fid-victim"]}, "audit", "test")
    assert type(make_strategy(Aggregation(strategy="mine:Mean"), 4, 0, "test")).__name__ == "AuditedMean"
    with pytest.raises(ConfigError, match="'Same' of module 'mine' is not a subclass"):
        make_attack({"kind": "mine:Same"}, "attacks.a", "test")
    module(
        "taken", "from clients.defences.defence import Defence, register\n@register('tl')\nclass Own(Defence): pass\n"
    )
    with pytest.raises(ConfigError, match=r"'tl' of module taken: the name is taken by module clients\.defences\.tl"):
        defence_class("taken:Own")


def test_torchvision_is_torchvisions_and_one_network_has_one_identity() -> None:
    assert spec_of("torchvision.models:resnet18").source == "torchvision"
    assert same_network("torchvision:resnet18", "torchvision.models:resnet18")
    assert same_network("mcnn", "fedinverse.models.mcnn:MCNN")
    assert not same_network("torchvision:resnet18", "resnet18")


def test_installed_packages_are_found_and_twice_is_once_too_often(installed: Path, monkeypatch: Any) -> None:
    assert "best_of" not in attack_names()
    monkeypatch.syspath_prepend(installed)
    assert "best_of" in attack_names()
    assert "noisy_images" in defence_names()
    assert make_attack({"kind": "best_of"}, "attacks.a", "test").settings.candidates == 200
    rival = installed.parent / "rival" / "rival-1.dist-info"
    rival.mkdir(parents=True)
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1\n")
    (rival / "entry_points.txt").write_text("[fedinverse.defences]\nnoisy_images = other:Noisy\ntl = other:Tl\n")
    monkeypatch.syspath_prepend(rival.parent)
    for name, owner in (("noisy_images", "fedinverse_example.noisy_images:NoisyImages"), ("tl", "clients.defences.tl")):
        with pytest.raises(ConfigError, match=f"'{name}' is offered more than once .*{owner}"):
            defence_class(name)


def test_the_example_works_through_ray_and_the_worker_from_a_relative_path(installed: Path, tmp_path: Path) -> None:
    """Nobody but PYTHONPATH, relative to where the user stands, says where the package is."""
    gmi = TINY["attacks"]["gmi"]
    changes = {
        "engine": {"kind": "ray", "actors": 1},
        "audit": {"metrics": ["fedinverse_example.sharpness:SHARPNESS"]},
        "federation": {"rounds": 1},
        "cohorts": [{"defence": "noisy_images", "clients": [0, 1, 2], "settings": {"deviation": 0.2}}],
        "attacks": {
            "gmi": None,
            "yardstick": {"kind": "fedinverse_example.best_of:BestOf", "candidates": 9, "prior": gmi["prior"]},
        },
    }
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(merged(TINY, changes)))
    paths = [os.path.relpath(installed, tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(ROOT / "fedinverse_sim.py"), "tiny.toml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "tiny"
    trained = read_jsonl(run / "federation" / "with_victim" / "clients.jsonl")
    assert {line["defence"] for line in trained if "defence" in line} >= {"fedinverse_example.noisy_images:NoisyImages"}
    scores = pd.read_csv(run / "audit" / "scores.csv")
    assert set(scores.loc[scores["metric"] == "fedinverse_example.sharpness:SHARPNESS", "arm"]) >= {"A", "B0", "CEIL"}
    abouts = list((run / "attacker" / "inversions" / "yardstick").glob("*/about.json"))
    assert abouts
    assert {json.loads(path.read_text())["attack"] for path in abouts} == {"fedinverse_example.best_of:BestOf"}


def test_the_search_path_is_absolute(monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "path", ["", "plugins", "/usr/lib"])
    assert search_path().split(os.pathsep) == [str(Path.cwd()), str(Path.cwd() / "plugins"), "/usr/lib"]
