"""Generators from elsewhere: checked when they are added, then priors like any other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from attack_bench import CPU, attack, public, target
from torch import Tensor, nn
from typer.testing import CliRunner

from attacker.priors.dcgan import Critic, Generator
from attacker.priors.external import Network, add_external, external_prior
from attacker.priors.prior import prior_path
from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.storage import load_weights, save_weights, to_weights
from pipeline.cli.main import app

SHAPE = (1, 32, 32)
LABELS = torch.tensor([0, 3, 0, 4])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every test a cache and an importable module of its own."""
    monkeypatch.setenv("FEDINVERSE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere.py").write_text(
        "import torch\n"
        "class Small(torch.nn.Module):\n"
        "    latent, side, top = 7, 32, 1.0\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.layer = torch.nn.Linear(self.latent, self.side ** 2)\n"
        "    def forward(self, z):\n"
        "        return self.top * torch.sigmoid(self.layer(z)).view(-1, 1, self.side, self.side)\n"
        "class Bright(Small): top = 255.0\n"
        "class Big(Small): side = 64\n"
        "class Flat(Small):\n"
        "    def forward(self, z): return self.layer(z)\n"
        "class Picky(Small):\n"
        "    def __init__(self, size): super().__init__()\n"
        "Thing = dict\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("elsewhere", None)


def dcgan(path: Path, critic: bool) -> Path:
    torch.manual_seed(1)
    nets: dict[str, nn.Module] = {"generator": Generator(SHAPE, 0.1)}
    if critic:
        nets["critic"] = Critic(SHAPE, 0.1)
    save_weights(path, to_weights(nn.ModuleDict(nets)))
    return path


def images_of(network: nn.Module) -> Tensor:
    with torch.no_grad():
        images: Tensor = network.eval()(torch.ones(3, 100))
        return images


def test_a_dcgan_file_is_a_prior(tmp_path: Path) -> None:
    network = Network("dcgan", SHAPE, 0.1)
    key = add_external(network, dcgan(tmp_path / "both.safetensors", critic=True))
    prior = external_prior(key, CPU)
    torch.manual_seed(1)
    torch.testing.assert_close(images_of(Generator(SHAPE, 0.1)), images_of(prior.generator))
    for name in ("gmi", "kedmi", "vmi", "ifgmi"):
        tested = attack(name, {"generator": key[:16]})
        loaded = tested.prior(target(), public(), 0, CPU)
        assert loaded.key == key
        result = tested.invert(target(), loaded, public(), LABELS, torch.Generator().manual_seed(0))
        assert result.images.shape == (4, *SHAPE)
        assert not result.failed.any()


def test_a_plain_state_is_a_generator_without_a_critic(tmp_path: Path) -> None:
    file = tmp_path / "plain.safetensors"
    save_weights(file, to_weights(Generator(SHAPE, 0.1)))
    prior = external_prior(add_external(Network("dcgan", SHAPE, 0.1), file), CPU)
    assert prior.critic is None
    with pytest.raises(ConfigError, match="critic"):
        attack("gmi").invert(target(), prior, public(), LABELS, torch.Generator())
    with pytest.raises(IntegrityError, match=r"plain\.safetensors"):
        add_external(Network("dcgan", SHAPE, 0.2), file)


def test_a_class_of_the_users_is_a_prior(tmp_path: Path) -> None:
    key = add_external(Network("elsewhere:Small", SHAPE), None)
    vmi = attack("vmi", {"generator": key})
    prior = vmi.prior(None, public(), 0, CPU)
    assert (prior.latent, prior.shape) == (7, SHAPE)
    result = vmi.invert(target(), prior, public(), LABELS, torch.Generator().manual_seed(0))
    assert result.latent.shape == (4, 7)
    assert add_external(Network("elsewhere:Small", SHAPE), None) == key


@pytest.mark.parametrize(
    ("architecture", "complaint"),
    [
        ("elsewhere:Bright", "to 2"),
        ("elsewhere:Flat", r"\(4, 1024\)"),
        ("elsewhere:Picky", "without arguments"),
        ("elsewhere:Thing", "not a subclass of torch.nn.Module"),
        ("os:abort", "not a subclass of torch.nn.Module"),
        ("elsewhere:Missing", "Missing"),
        ("nowhere:Small", "nowhere"),
        ("stylegan", "package.module:Class"),
        ("dcgan", "without weights"),
    ],
)
def test_what_makes_no_images_is_refused(architecture: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=complaint):
        add_external(Network(architecture, SHAPE), None)
    assert not list(tmp_path.rglob("external-*"))


def test_a_key_is_its_beginning_and_no_less(tmp_path: Path) -> None:
    key = add_external(Network("elsewhere:Small", SHAPE), None)
    for said in (key[:6], key[:16], key[:40], key):
        assert external_prior(said, CPU).key == key
    for said in ("", key[:16] + "0" * 48, "f" * 8):
        with pytest.raises(ConfigError, match="must begin the key of one"):
            external_prior(said, CPU)


def test_what_a_file_names_is_not_imported(tmp_path: Path) -> None:
    """The class was named when the generator was added; a file put in its place cannot name another."""
    key = add_external(Network("elsewhere:Small", SHAPE), None)
    path = prior_path("external", key)
    weights, about = load_weights(path)
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    save_weights(path, weights, about | {"architecture": "evil:Thing"})
    with pytest.raises(IntegrityError, match="add it again"):
        external_prior(key, CPU)
    stranger = "a" * 64  # never added: a file alone is nothing
    save_weights(prior_path("external", stranger), weights, about | {"architecture": "os:abort", "key": stranger})
    with pytest.raises(ConfigError, match="was added"):
        external_prior(stranger, CPU)
    assert "evil" not in sys.modules
    with pytest.raises(ConfigError, match="at most 4"):
        add_external(Network("dcgan", SHAPE, 1e9), dcgan(tmp_path / "wide.safetensors", critic=False))


def test_images_of_another_shape_than_the_target_takes_are_refused() -> None:
    vmi = attack("vmi", {"generator": add_external(Network("elsewhere:Big", SHAPE), None)})
    with pytest.raises(ConfigError, match=r"\(1, 64, 64\)"):
        vmi.invert(target(), vmi.prior(None, public(), 0, CPU), public(), LABELS, torch.Generator())
    with pytest.raises(ConfigError, match="prior add"):
        attack("vmi", {"generator": "f" * 16}).prior(None, public(), 0, CPU)


def test_the_command_adds_lists_and_shows(tmp_path: Path) -> None:
    file = dcgan(tmp_path / "both.safetensors", critic=True)
    run = CliRunner().invoke
    added = run(app, ["prior", "add", "dcgan", "--weights", str(file), "--width", "0.1"], catch_exceptions=False)
    assert added.exit_code == 0
    key = added.output.partition("generator=")[2].split()[0]
    assert "dcgan 1x32x32" in run(app, ["prior", "list"], catch_exceptions=False).output
    output = run(app, ["prior", "show", key], catch_exceptions=False).output
    assert "with its critic" in output
    assert "both.safetensors" in output
