"""The layers at the image's end of a network: PyTorch's own, to rounding, differentiated once and twice."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacker.priors.dcgan import Critic
from fedinverse.models import build, for_inference
from fedinverse.models.classifier import conv_block
from fedinverse.models.image_layers import ImageConv2d, ImageConvTranspose2d, WholeConv2d, paint

GEOMETRIES = [(1, 7, 1, 1, 12), (3, 5, 2, 2, 12), (1, 5, 2, 2, 8), (3, 3, 1, 1, 6)]  # C, kernel, stride, padding, side


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Return float64 normal numbers that want a gradient."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding", "side"), GEOMETRIES)
def test_looking_is_a_convolution(channels: int, kernel: int, stride: int, padding: int, side: int) -> None:
    plain = nn.Conv2d(channels, 6, kernel, stride, padding).double()
    look = ImageConv2d.of(plain)
    assert look is not None
    assert look.weight is plain.weight
    images = seeded(2, channels, side, side)
    assert torch.equal(look(images), plain(images))
    _same_gradients(look, plain, images)
    assert torch.autograd.gradcheck(look, (images,))
    assert torch.autograd.gradgradcheck(look, (images,))


@pytest.mark.parametrize(("channels", "kernel", "stride", "padding", "side"), GEOMETRIES)
def test_painting_is_a_transposed_convolution(channels: int, kernel: int, stride: int, padding: int, side: int) -> None:
    arguments = (6, channels, kernel, stride, padding)
    layer = ImageConvTranspose2d(*arguments, output_padding=stride - 1).double()
    plain = nn.ConvTranspose2d(*arguments, output_padding=stride - 1).double()
    plain.load_state_dict(layer.state_dict())
    features = seeded(2, 6, side, side)
    torch.testing.assert_close(layer(features), plain(features))
    _same_gradients(layer, plain, features)
    assert torch.autograd.gradgradcheck(layer, (seeded(1, 6, 3, 3),))


def _same_gradients(layer: nn.Module, plain: nn.Module, inputs: Tensor) -> None:
    outer = torch.randn_like(plain(inputs))
    ours = torch.autograd.grad(layer(inputs), (inputs, *layer.parameters()), outer)
    theirs = torch.autograd.grad(plain(inputs), (inputs, *plain.parameters()), outer)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_gradient_penalty_reaches_the_weights() -> None:
    """Twice differentiated through the whole critic, by its weights, against PyTorch's layers."""
    critic, images = Critic((1, 32, 32), 1 / 16).double(), seeded(2, 1, 32, 32)
    plain = Critic((1, 32, 32), 1 / 16).double()
    plain.load_state_dict(critic.state_dict())
    plain.layers[0].__class__ = nn.Conv2d
    penalties = []
    for net in (critic, plain):
        (slope,) = torch.autograd.grad(net(images).sum(), images, create_graph=True)
        penalties.append(
            torch.autograd.grad((slope.flatten(1).norm(dim=1) - 1).square().mean(), [net.layers[0].weight])
        )
    torch.testing.assert_close(*penalties)


def test_bfloat16_overlaps_are_summed_in_float32() -> None:
    features, weight = seeded(2, 6, 4, 4).detach(), seeded(6, 1, 5, 5, seed=1).detach()
    lowered = paint(features.bfloat16(), weight.bfloat16(), (8, 8), 2, 2)
    assert lowered.dtype == torch.float32
    torch.testing.assert_close(lowered.double(), paint(features, weight, (8, 8), 2, 2), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("direction", ["look", "paint"])
def test_autocast_lowers_them_like_the_others(direction: str) -> None:
    plain = nn.Conv2d(1, 16, 5, 2, 2) if direction == "look" else nn.ConvTranspose2d(16, 1, 5, 2, 2, output_padding=1)
    layer = (
        ImageConv2d.of(plain)
        if isinstance(plain, nn.Conv2d)
        else ImageConvTranspose2d(16, 1, 5, 2, 2, output_padding=1)
    )
    assert layer is not None
    layer.load_state_dict(plain.state_dict())
    shape = (4, 1, 16, 16) if direction == "look" else (4, 16, 8, 8)
    inputs = seeded(*shape).float().detach().requires_grad_()
    slopes = []
    for net in (layer, plain):
        with torch.autocast("cpu", torch.bfloat16):
            value = net(inputs).float().square().sum()
        slopes.append(torch.autograd.grad(value, inputs)[0].flatten(1))
    assert F.cosine_similarity(*slopes).min() > 0.999


@pytest.mark.parametrize("plain", [nn.Conv2d(8, 4, 3), nn.Conv2d(1, 4, (3, 5)), nn.Conv2d(2, 4, 3, groups=2)])
def test_other_convolutions_stay(plain: nn.Conv2d) -> None:
    assert ImageConv2d.of(plain) is None


def test_inference_replaces_the_first_layer_only() -> None:
    model = build("vgg16", 5, 1 / 8, seed=0)
    ready = for_inference(model)
    assert sum(isinstance(layer, ImageConv2d) for layer in ready.modules()) == 1
    assert not any(isinstance(layer, ImageConv2d) for layer in model.modules())


def test_a_kernel_as_large_as_its_features_is_a_product() -> None:
    plain = nn.Conv2d(4, 6, 5).double()
    whole = WholeConv2d(4, 6, 5).double()
    whole.load_state_dict(plain.state_dict())
    features = seeded(3, 4, 5, 5)
    torch.testing.assert_close(whole(features), plain(features))
    _same_gradients(whole, plain, features)
    with pytest.raises(ValueError, match="not as large"):
        whole(seeded(3, 4, 6, 6))


def test_pooling_before_the_slope_changes_nothing() -> None:
    """The block in the published order, bit by bit, forward and by its weights."""
    block = conv_block(1, 4, 3, pool=True)
    published = nn.Sequential(block[0], block[1], nn.LeakyReLU(0.2), nn.MaxPool2d(2))
    images = torch.rand(6, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(images), published(images))
    ours, theirs = (
        torch.autograd.grad(net(images).square().sum(), list(block.parameters())) for net in (block, published)
    )
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
