"""Networks of strangers as targets: every kind is read, attacked and distilled, or refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attacker.attacks.registry import make_attack
from attacker.losses.students import DistillationSettings, distilled
from attacker.target import PublicSet, open_target
from fedinverse.errors import ConfigError
from fedinverse.models import build, for_inference, spec_of
from fedinverse.models.declared import Declaration, DeclaredClassifier
from fedinverse.storage import save_weights, to_weights
from fedinverse.theirs import TheirError

RGB = "?shape=3,32,32"
GMI = {
    "kind": "gmi",
    "iterations": 2,
    "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 8},
}
KINDS = {
    "Quickstart": "&mean=0.5,0.5,0.5&std=0.5,0.5,0.5",
    "Buffers": "",
    "Tied": "",
    "Half": "",
    "BFloat": "",
    "Double": "",
    "Group": "",
    "Batch": "",
    "Renormed": "",
    "Lazy": "",
    "Dictionary": "",
    "Hugging": "",
    "Pair": "",
    "Probable": "&output=probabilities",
    "Odd": "&output=strangers:scores",
    "Recurrent": "",
    "Convolved": "&features=last",
    "Base": "&transform=strangers:squared",
}


@pytest.fixture(scope="module")
def public() -> PublicSet:
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32)).astype(np.uint8)
    return PublicSet(torch.from_numpy(images).contiguous(memory_format=torch.channels_last), "noise")


@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_network_is_inverted(kind: str, tmp_path: Path, public: PublicSet) -> None:
    name = f"strangers:{kind}{RGB}{KINDS[kind]}"
    network = build(name, 10, seed=3)
    assert isinstance(network, DeclaredClassifier)
    sent = to_weights(network)
    assert sent.keys() == network.network.state_dict().keys()  # its own names, not ours
    path = tmp_path / "round-0001.safetensors"
    save_weights(path, sent, {"model-round": 1})
    target = open_target(path, name, 10, 1.0, "cpu")
    images = torch.rand(4, 3, 32, 32)
    exact = network.eval()(images)
    assert torch.allclose(target.model(images), exact, atol=1e-3)  # the same numbers after reading and folding
    assert target.model.features(images).penultimate.shape[0] == 4
    gmi = make_attack(GMI, "attacks.gmi", "test")
    prior = gmi.prior(target, public, 0, target.device)
    inverted = gmi.invert(target, prior, public, torch.tensor([0, 1]), torch.Generator().manual_seed(0))
    assert not inverted.failed.any()
    z = images.requires_grad_(True)
    slope = torch.autograd.grad(target.model(z)[:, 0].sum(), z)[0]
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


def test_penultimate_is_the_input_of_the_head() -> None:
    network = build(f"strangers:Base{RGB}", 10, seed=0).eval()
    seen = network.features(torch.rand(2, 3, 32, 32))
    assert torch.allclose(network.network.head(seen.penultimate), seen.logits)


def test_pixels_become_its_input() -> None:
    pixels = torch.full((1, 3, 32, 32), 0.25)
    network = build(f"strangers:Base{RGB}&mean=0.5,0.25,0&std=0.5,1,0.25&transform=strangers:squared", 10)
    assert isinstance(network, DeclaredClassifier)
    assert network.prepared(pixels)[0, :, 0, 0].tolist() == [0.25, 0.0, 1.0]


def test_a_larger_canvas_is_cut_and_a_smaller_one_resized() -> None:
    name = "strangers:Grey?shape=1,28,28&canvas=32,32"
    network = build(name, 7, seed=0)
    assert isinstance(network, DeclaredClassifier)
    assert spec_of(name).input_shape == (1, 32, 32)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(network.prepared(images), images[:, :, 2:30, 2:30])
    assert network(images).shape == (2, 7)  # the constructor was told the number of classes
    wide = build("strangers:Base?shape=3,48,48&canvas=32,32", 10, seed=0)
    assert isinstance(wide, DeclaredClassifier)
    assert wide.prepared(torch.rand(1, 3, 32, 32)).shape == (1, 3, 48, 48)


def test_a_declaration_is_one_line_of_text() -> None:
    said = Declaration("a.b:Net", (1, 28, 28), (0.1307,), (0.3081,), output="probabilities", canvas=(32, 32),
                       arguments={"depth": 3, "name": "x&y"})  # fmt: skip
    assert Declaration.read(said.name) == said
    assert said.name.startswith(
        "a.b:Net?shape=1,28,28&mean=0.1307&std=0.3081&canvas=32,32&output=probabilities&depth=3"
    )


def test_a_strangers_network_is_distilled(tmp_path: Path, public: PublicSet) -> None:
    name = f"strangers:Hugging{RGB}"
    save_weights(tmp_path / "w.safetensors", to_weights(build(name, 10, seed=0)))
    target = open_target(tmp_path / "w.safetensors", name, 10, 1.0, "cpu")
    settings = DistillationSettings(models=(f"strangers:Base{RGB}",), steps=1, batch_size=4)
    assert distilled(1, settings, target, public)[0](torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_layers_that_hooks_or_their_own_forward_change_are_not_folded() -> None:
    network = build(f"strangers:Batch{RGB}", 10, seed=0)
    assert isinstance(network, DeclaredClassifier)
    for module in network.network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-1, 1)
    images = torch.rand(4, 3, 32, 32)
    ready = for_inference(network.eval())
    assert torch.allclose(ready(images), network(images), atol=1e-5)
    assert sum(isinstance(module, nn.Identity) for module in ready.modules()) == 1  # the plain pair alone


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        ("strangers:Base", 10, r"needs its image shape said: package.module:Net\?shape=3,32,32"),
        ("strangers:Base?mean=0.5", 10, r"does not say which images it takes.*shape=3,32,32"),
        ("strangers:Base?shape=3,32", 10, "three numbers"),
        ("strangers:Base?shape=3,32,x", 10, "are expected"),
        (f"strangers:Base{RGB}&mean=0.5,0.5", 10, "mean has 2 values, needs 1 or 3"),
        (f"strangers:Base{RGB}&std=0", 10, "must be positive"),
        (f"strangers:Base{RGB}", 12, r"gives \(2, 10\) for 2 images; \(2, 12\) is needed for classes = 12"),
        (f"strangers:Convolved{RGB}", 10, r"set features.*body, body.0.*last"),
        (f"strangers:Base{RGB}&features=neck", 10, "'neck' is no layer"),
        (f"strangers:Probable{RGB}", 10, "set output = 'probabilities'"),
        (f"strangers:Odd{RGB}", 10, r"returns a dict with the keys \['scores'\]; set output"),
        (f"strangers:squared{RGB}", 10, "cannot be called so: missing a required argument: 'x'"),
        (f"strangers:out_of_order{RGB}", 10, "could not be made"),
        (f"strangers:Nett{RGB}", 10, r"has no 'Nett'"),
        (f"strangers{RGB}", 10, "package.module:name"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name: str, classes: int, message: str) -> None:
    with pytest.raises(ConfigError if "could not" not in message else TheirError, match=message):
        build(name, classes, seed=0)


def test_their_exception_is_shown_as_theirs() -> None:
    with pytest.raises(TheirError) as caught:
        build(f"strangers:Broken{RGB}", 10, seed=0)
    text = str(caught.value)
    assert "cannot read images (3, 32, 32)" in text
    assert "KeyError: 'labels'" in text
    assert "strangers.py" in text
    with pytest.raises(TheirError, match="strangers_that_are_not_there"):
        build(f"strangers_that_are_not_there:Net{RGB}", 10)


def test_of_several_linear_layers_the_one_that_gives_the_logits_is_the_head() -> None:
    network = build("strangers:Aided?shape=3,32,32", 10, seed=0)
    assert isinstance(network, DeclaredClassifier)
    assert network.head == "head"
