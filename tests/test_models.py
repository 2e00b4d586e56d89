"""Networks: shapes, taps, parameter counts at the published width, folding, initial weights, errors."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, build, for_inference, model_names, spec_of
from fedinverse.models.classifier import MODELS, projection

COUNTS = {  # parameters at width 1 with the number of classes the papers use
    ("mcnn", 5): 1_029_765,
    ("mcnn", 10): 1_031_050,
    ("lenet5", 10): 61_706,
    ("lenet5_linear", 10): 61_706,
    ("scnn", 10): 1_740_234,
    ("vgg16", 1000): 16_776_232,
    ("resnet18", 1000): 11_681_832,
    ("resnet18_32", 10): 11_173_962,
    ("face_evolve", 1000): 35_437_224,
    ("ir152", 1000): 62_599_848,
    ("facenet112", 1000): 44_087_976,
    ("mcnn_gn", 10): 1_031_050,
    ("mcnn_vib", 10): 1_095_562,
    ("lenet5_vib", 10): 68_426,
    ("vgg16_vib", 1000): 19_944_488,
}
TAPS = {
    "mcnn": [(64, 14, 14), (128, 5, 5), (256, 1, 1)],
    "scnn": [(32, 14, 14), (64, 5, 5), (128, 1, 1), (256, 1, 1), (512, 1, 1)],
    "vgg16": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (2048,)],
    "resnet18": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
    "resnet18_32": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
    "face_evolve": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
    "ir152": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
    "facenet112": [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)],
}
NARROW = 1 / 16


def lively(name: str, classes: int = 7, width: float = NARROW) -> Classifier:
    """Return a network whose BatchNorm has seen data: statistics and affine weights away from 0 and 1."""
    model = build(name, classes, width, seed=1)
    random = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=random) * (high - low) + low)
    return model


def images_for(model: Classifier, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *model.input_shape, generator=torch.Generator().manual_seed(3))


def test_parameter_counts_at_width_one() -> None:
    ours = {spec.name for spec in MODELS.entries() if spec.construct.__module__.startswith("fedinverse.")}
    assert {name for name, _ in COUNTS} == ours
    with torch.device("meta"):
        counts = {
            (name, classes): sum(weight.numel() for weight in spec_of(name).construct(classes, 1.0).parameters())
            for name, classes in COUNTS
        }
    assert counts == COUNTS


@pytest.mark.parametrize("name", sorted(TAPS))
def test_taps_have_the_published_shapes(name: str) -> None:
    spec = spec_of(name)
    with torch.device("meta"):
        model = spec.construct(7, 1.0).eval()
        seen = model.features(torch.empty(2, *spec.input_shape))
    assert [tuple(tap.shape[1:]) for tap in seen.taps] == TAPS[name]
    assert seen.logits.shape == (2, 7)
    assert seen.penultimate.ndim == 2


@pytest.mark.parametrize("name", model_names())
def test_logits_come_from_the_penultimate_features(name: str) -> None:
    model = lively(name).eval()
    seen = model.features(images_for(model))
    head = model.get_submodule("head")
    torch.testing.assert_close(head(seen.penultimate), seen.logits)
    torch.testing.assert_close(model(images_for(model)), seen.logits)


@pytest.mark.parametrize("name", model_names())
def test_folding_changes_nothing_and_leaves_the_model_alone(name: str) -> None:
    model = lively(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ready = for_inference(model)
    with torch.inference_mode():
        plain, folded = model.features(images_for(model)), ready.features(images_for(model))
    for one, other in zip((*plain.taps, plain.logits), (*folded.taps, folded.logits), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4 * float(one.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(weight.requires_grad for weight in ready.parameters())
    places = {value.data_ptr() for value in (*model.parameters(), *model.buffers())}
    assert not any(value.data_ptr() in places for value in (*ready.parameters(), *ready.buffers()))


@pytest.mark.parametrize(("name", "left"), [("vgg16", 1), ("resnet18", 0), ("face_evolve", 25)])
def test_every_foldable_batch_norm_is_folded(name: str, left: int) -> None:
    # vgg16 keeps the one its head reads; IR-50 the 24 before padded convolutions and the last stage's.
    ready = for_inference(lively(name))
    assert sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in ready.modules()) == left


@pytest.mark.parametrize("name", model_names())
def test_width_scales_and_the_seed_fixes_the_weights(name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (build(name, 7, NARROW, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # the global stream is untouched
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with torch.device("meta"):
        full = sum(weight.numel() for weight in spec_of(name).construct(7, 1.0).parameters())
    assert sum(weight.numel() for weight in one.parameters()) < full / 8


@pytest.mark.parametrize("name", [name for name in model_names() if spec_of(name).input_shape[0] == 3])
def test_a_step_of_training_reaches_every_trainable_weight(name: str) -> None:
    model = build(name, 7, NARROW, seed=1).train()
    nn.functional.cross_entropy(model(images_for(model, 4)), torch.tensor([0, 1, 2, 3])).backward()
    silent = [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not silent


@pytest.mark.parametrize("channels", [4, 8, 16])
def test_projection_is_a_strided_convolution_with_right_gradients(channels: int) -> None:
    random = torch.Generator().manual_seed(4)
    ours = projection(channels, 2 * channels, 2).eval().to(memory_format=torch.channels_last)
    weight = ours[1].weight
    images = torch.randn(4, channels, 16, 16, generator=random).contiguous(memory_format=torch.channels_last)
    strided = nn.functional.conv2d(images.double(), weight.double(), stride=2)
    (expected,) = torch.autograd.grad(strided.square().sum(), weight)
    sampled = ours[:2](images)
    (actual,) = torch.autograd.grad(sampled.square().sum(), weight)
    torch.testing.assert_close(sampled, strided.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual, expected.float(), rtol=1e-3, atol=1e-3)


def test_vgg16_keeps_the_bias_of_its_last_norm_frozen() -> None:
    frozen = [key for key, weight in build("vgg16", 7, NARROW).named_parameters() if not weight.requires_grad]
    assert frozen == ["pool.1.bias"]


def test_resnet18_computes_what_torchvision_does() -> None:
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=7).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.Identity()
    ours = lively("resnet18", width=1.0).eval()
    ordered = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
    theirs.load_state_dict(dict(ordered))
    torch.testing.assert_close(ours(images_for(ours)), theirs(images_for(ours)), rtol=1e-4, atol=1e-4)


def test_vgg16_stack_computes_what_torchvision_does() -> None:
    from torchvision.models import vgg16_bn

    theirs = vgg16_bn(num_classes=7).features.eval()
    ours = lively("vgg16", width=1.0).eval()
    stack = ours.get_submodule("blocks")
    theirs.load_state_dict(dict(zip(theirs.state_dict(), stack.state_dict().values(), strict=True)))
    expected = ours.get_submodule("pool")(theirs(images_for(ours)))
    torch.testing.assert_close(ours.features(images_for(ours)).penultimate, expected, rtol=1e-4, atol=1e-4)


def test_facenet112_takes_64_pixels_and_passes_gradients_through_the_resize() -> None:
    model = for_inference(lively("facenet112"))
    images = images_for(model).requires_grad_()
    model(images).sum().backward()
    assert model.input_shape == (3, 64, 64)
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_torchvision_networks_by_name() -> None:
    model = build("torchvision:mobilenet_v2", 7).eval()
    seen = model.features(images_for(model))
    assert seen.logits.shape == (3, 7)
    assert seen.taps[0].shape == (3, 1280)
    with pytest.raises(ConfigError, match="'torchvision:resnet19' is unknown"):
        build("torchvision:resnet19", 7)
    with pytest.raises(ConfigError, match=r"set model\.width = 1"):
        build("torchvision:resnet18", 7, width=0.5)
    with pytest.raises(ConfigError, match="does not end in a linear layer"):
        build("torchvision:squeezenet1_0", 7)


def test_a_module_of_the_users_registers_its_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "from fedinverse.models.classifier import BlockClassifier, register\n"
        "@register('tiny_of_mine', (1, 8, 8), 'mine')\n"
        "class Tiny(BlockClassifier):\n"
        "    def __init__(self, classes, width=1.0):\n"
        "        super().__init__()\n"
        "        self.blocks = nn.ModuleList([nn.Flatten()])\n"
        "        self.pool, self.head = nn.Identity(), nn.Linear(64, classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build("my_networks:tiny_of_mine", 3).input_shape == (1, 8, 8)
    with pytest.raises(ConfigError, match="did you mean 'tiny_of_mine'"):
        spec_of("my_networks:tiny_of_min")
    with pytest.raises(ConfigError, match="module 'no_such_networks' cannot be imported"):
        spec_of("no_such_networks:tiny")


def test_unknown_names_hint_at_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vgg16'"):
        build("vgg61", 7)


def test_importing_the_models_does_not_import_torchvision() -> None:
    check = "import sys, fedinverse.models, fedinverse.data; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_folding_is_exact_for_a_generators_deconvolutions() -> None:
    from attacker.priors.dcgan import Generator

    torch.manual_seed(0)
    generator = Generator((1, 32, 32), 0.1)
    z = torch.randn(16, 100)
    generator.train()(z)  # BatchNorm statistics that are not the initial ones
    assert torch.allclose(for_inference(generator)(z), generator.eval()(z), atol=1e-5)
