"""DP-SGD (Abadi et al., CCS 2016) with Opacus: per-image gradients clipped and noised, epsilon accounted.

The unit is one image of one client, neighbours differ by adding or removing it. Batches are Poisson
samples, as the accountant assumes: every image is in a batch with probability B / N. Covered are the
weights sent; the client's reported loss, accuracy and number of images are not.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from clients.defences.defence import Defence, noise_generator, register
from clients.settings import Training
from fedinverse.accounting import spent_epsilon
from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier

_TRIED = 2  # images whose gradients are compared
_TOLERANCE = 1e-2  # of the whole gradient's length; float32 and another order of sums make 1e-6


class DpSgdSettings(Section):
    """Noise and clipping; the epsilon that follows is in every round's report."""

    noise_multiplier: float = Field(1.0, ge=0, description="standard deviation of the noise over max_grad_norm")
    max_grad_norm: float = Field(1.0, gt=0, description="L2 bound on one image's gradient")
    delta: float = Field(1e-5, gt=0, lt=1, description="delta of (epsilon, delta); below 1 / images of a client")


@register("dp_sgd")
class DpSgd(Defence):
    """Opacus' hooks on the model and its optimiser around ours, for the time of a round."""

    Settings = DpSgdSettings

    def __init__(self, settings: DpSgdSettings) -> None:
        super().__init__(settings)
        self._hooks: Any = None
        self._noise = torch.Generator()
        self._sample_rate = 0.0
        self._steps = 0

    @classmethod
    def check(cls, settings: DpSgdSettings, model: Classifier) -> None:
        """Refuse what has no per-image gradients: BatchNorm, recurrent layers, a layer used under two names."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            raise ConfigError(
                f"defence dp_sgd cannot work with the BatchNorm of {type(model).__name__} (it mixes the "
                "images of a batch); set model.name to the GroupNorm form, e.g. 'mcnn_gn'"
            )

        names: dict[int, str] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
                raise ConfigError(
                    f"defence dp_sgd cannot work with '{name}', a {type(module).__name__}: Opacus has no per-image "
                    "gradients of it as it is; choose another network or another defence"
                )
            for parameter_name, parameter in module._parameters.items():  # its own: a wrapper names its network's
                full = f"{name}.{parameter_name}".lstrip(".")
                first = names.setdefault(id(parameter), full)
                if first != full:
                    raise ConfigError(
                        f"defence dp_sgd cannot work with '{full}', which is '{first}' under another name: its "
                        "per-image gradients would count twice; untie the two or choose another defence"
                    )

    def try_on(self, model: Classifier, images: Tensor, labels: Tensor) -> None:
        """Refuse a network of which Opacus' per-image gradients are not those of its images, taken one by one.

        They are not where a weight is used beside its layer (``F.linear(x, layer.weight)``), or where the forward pass
        mixes images: what is clipped is then not what an image changes. A network with randomness of its own cannot be
        looked at so.
        """
        from opacus.grad_sample.grad_sample_module import GradSampleHooks  # seconds

        images, labels = images[:_TRIED].contiguous(), labels[:_TRIED]
        tried = copy.deepcopy(model).to(memory_format=torch.contiguous_format).train()
        for module in tried.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        with torch.no_grad():
            if not torch.equal(tried(images), tried(images)):
                return
        alone = [_gradients(tried, images[row : row + 1], labels[row : row + 1]) for row in range(len(images))]
        hooks = GradSampleHooks(tried)
        try:
            F.cross_entropy(tried(images), labels).backward()
            together: dict[str, Any] = {
                name: getattr(value, "grad_sample", None) for name, value in tried.named_parameters()
            }
        finally:
            hooks.cleanup()
        for row, one in enumerate(alone):
            size = torch.cat([gradient.flatten() for gradient in one.values()]).norm()
            for name, gradient in one.items():
                each = together[name]
                hooked = torch.zeros_like(gradient) if each is None else each[row]
                if (hooked - gradient).norm() > _TOLERANCE * size:
                    raise ConfigError(
                        f"defence dp_sgd cannot work with '{name}': Opacus' gradient of one image is not the one that "
                        "the image alone gives. The weight is used beside its own layer, or the network mixes the "
                        "images of a batch; change the network or choose another defence"
                    )

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Attach the hooks that keep per-image gradients, in NCHW.

        Opacus (1.6) unfolds a channels-last activation with the strides of NCHW: the per-image gradients of
        every convolution with more than one input channel are then wrong, without a word.
        """
        from opacus.grad_sample.grad_sample_module import GradSampleHooks  # seconds

        del examples
        self._noise = noise_generator(generator, next(model.parameters()).device)
        model.to(memory_format=torch.contiguous_format)
        self._hooks = GradSampleHooks(model)
        return model

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, training: Training, examples: int
    ) -> torch.optim.Optimizer:
        """Return Opacus' optimiser: clip, sum, add noise, divide by the expected batch size."""
        from opacus.optimizers import DPOptimizer

        self._sample_rate = min(1.0, training.batch_size / examples)
        wrapped: torch.optim.Optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=self.settings.noise_multiplier,
            max_grad_norm=self.settings.max_grad_norm,
            expected_batch_size=self._sample_rate * examples,
            generator=self._noise,
        )
        return wrapped

    def batches(self, examples: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield ceil(N / B) Poisson samples; one may be empty, and is a step of noise alone."""
        for _ in range(math.ceil(examples / size)):
            self._steps += 1
            yield (torch.rand(examples, generator=generator) < self._sample_rate).nonzero().flatten()

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return plain cross-entropy and logits."""
        if len(images):
            return super().loss(model, images.contiguous(), labels)
        # No image, no per-image gradient, which Opacus must see to add its noise.
        total = images.new_zeros(())
        for weight in model.parameters():
            weight.grad_sample = weight.new_zeros((0, *weight.shape))  # type: ignore[attr-defined]
            total = total + 0 * weight.sum()
        return total, images.new_zeros((0, model.classes))

    def finish(self, model: Classifier) -> None:
        """Detach the hooks and go back to channels-last."""
        self._hooks.cleanup()
        model.to(memory_format=torch.channels_last)

    def report(self) -> dict[str, float]:
        """Return what this round cost; ``fedinverse.accounting`` composes rounds from the last three."""
        s = self.settings
        return {
            "epsilon_round": spent_epsilon(s.noise_multiplier, self._sample_rate, self._steps, s.delta),
            "delta": s.delta,
            "dp_noise_multiplier": s.noise_multiplier,
            "dp_sample_rate": self._sample_rate,
            "dp_steps": float(self._steps),
        }


def _gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the mean cross-entropy by parameter; of one that is not used, zeros."""
    used = {name: value for name, value in model.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(used.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(used.items(), gradients, strict=True)
    }
