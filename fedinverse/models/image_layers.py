"""The layers between an image and its first features: the same convolutions, with a fast way back to the pixels.

An image has one or three channels. What makes it from features (a generator's last layer, the gradient of a network's
first) has so few outputs that a processor's convolution kernels compute mostly padding. On the CPU it is done here as
one matrix product to patches and one sum of overlapping patches: up to six times faster, equal up to rounding, and
differentiable twice, as a gradient penalty needs it. Other devices keep their own kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 4  # channels up to which a tensor counts as an image


def paint(features: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """Return what the transposed convolution of ``features`` [N, F, h, w] by ``weight`` [F, C, k, k] makes.

    Returns:
        [N, C, H, W] with (H, W) = ``size``; float32 where the features have 16 bits, since overlaps are summed.
    """
    rows = features.permute(0, 2, 3, 1).flatten(1, 2)
    patches = weight.flatten(1).mT @ rows.mT  # [N, C k k, h w]
    if patches.dtype in (torch.bfloat16, torch.float16):
        patches = patches.float()
    return F.fold(patches, size, weight.shape[2], padding=padding, stride=stride)


def _parameter_gradients(ctx: Any, slope: Tensor, inputs: Tensor, weight: Tensor, transposed: bool) -> tuple[Any, Any]:
    """Return the gradients by weight and bias, None where they are not wanted."""
    _, by_weight, by_bias = ctx.needs_input_grad[:3]
    if not (by_weight or by_bias):
        return None, None
    stride, padding = [ctx.stride] * 2, [ctx.padding] * 2
    extra = [ctx.extra] * 2 if transposed else [0, 0]
    bias = [weight.shape[1] if transposed else weight.shape[0]]
    wanted = [False, by_weight, by_bias]
    _, of_weight, of_bias = torch.ops.aten.convolution_backward(
        slope, inputs, weight, bias, stride, padding, [1, 1], transposed, extra, 1, wanted
    )
    return of_weight, of_bias


class _Look(torch.autograd.Function):
    """A convolution of images; back to the pixels by ``paint``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        slope, (images, weight) = slopes[0], ctx.saved_tensors
        images, weight = images.to(slope.dtype), weight.to(slope.dtype)  # autocast lowered them in forward, too
        by_images = None
        if ctx.needs_input_grad[0]:
            size = (images.shape[2], images.shape[3])
            by_images = paint(slope, weight, size, ctx.stride, ctx.padding)
        return by_images, *_parameter_gradients(ctx, slope, images, weight, False), None, None


class _Paint(torch.autograd.Function):
    """A transposed convolution to images by ``paint``; back by a convolution."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, extra: int) -> Any:
        ctx.save_for_backward(features, weight)
        ctx.stride, ctx.padding, ctx.extra = stride, padding, extra
        grown = [(side - 1) * stride - 2 * padding + weight.shape[2] + extra for side in features.shape[2:]]
        return paint(features, weight, (grown[0], grown[1]), stride, padding) + bias[:, None, None]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        features, weight = ctx.saved_tensors
        slope, weight = slopes[0].to(features.dtype), weight.to(features.dtype)
        by_features = F.conv2d(slope, weight, None, ctx.stride, ctx.padding) if ctx.needs_input_grad[0] else None
        return by_features, *_parameter_gradients(ctx, slope, features, weight, True), None, None, None


class ImageConv2d(nn.Conv2d):
    """``nn.Conv2d`` of images [N, C, H, W] with few channels: square, neither dilated nor grouped, zero padding."""

    def forward(self, images: Tensor) -> Tensor:
        """Return features [N, F, h, w]."""
        if images.device.type != "cpu":
            return super().forward(images)
        seen: Tensor = _Look.apply(images, self.weight, self.bias, self.stride[0], self.padding[0])
        return seen

    @classmethod
    def of(cls, plain: nn.Conv2d) -> "ImageConv2d | None":
        """Return ``plain``, its parameters shared, as such a layer; None where it does not look at images."""
        square = len({*plain.kernel_size}) == len({*plain.stride}) == 1 and isinstance(plain.padding, tuple)
        simple = plain.groups == 1 and plain.dilation == (1, 1) and plain.padding_mode == "zeros"
        if not (square and simple and len({*plain.padding}) == 1 and plain.in_channels <= FEW):
            return None
        layer = cls.__new__(cls)
        layer.__dict__ = dict(plain.__dict__)
        return layer


class ImageConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` to images [N, C, H, W] with few channels: square, neither dilated nor grouped."""

    def forward(self, features: Tensor, output_size: Any = None) -> Tensor:
        """Return images [N, C, H, W] of ``features`` [N, F, h, w]."""
        if features.device.type != "cpu" or output_size is not None or self.bias is None:
            return super().forward(features, output_size)
        stride, padding, extra = self.stride[0], self.padding[0], self.output_padding[0]
        images: Tensor = _Paint.apply(features, self.weight, self.bias, stride, padding, extra)
        return images


class WholeConv2d(nn.Conv2d):
    """``nn.Conv2d`` [N, C, k, k] -> [N, F, 1, 1] with a k x k kernel; a third of the time on the CPU, same numbers.

    Channels-last weights and features are read as they lie. Features of another size are an error.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return [N, F, 1, 1] of ``features`` [N, C, k, k]."""
        if features.shape[1:] != self.weight.shape[1:]:
            raise ValueError(f"features {tuple(features.shape[1:])} are not as large as {tuple(self.weight.shape[1:])}")
        rows, kernel = (value.permute(0, 2, 3, 1).flatten(1) for value in (features, self.weight))
        return F.linear(rows, kernel, self.bias)[:, :, None, None]
