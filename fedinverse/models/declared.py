"""Any ``torch.nn.Module`` as a target: a network that knows nothing of FedInverse, and what must be said of it.

It is named by one line of text, which travels in configs, plans and the metadata of weights like every model's name:

    package.module:Net?shape=3,32,32&mean=0.5,0.5,0.5&std=0.5,0.5,0.5

| key | meaning |
|---|---|
| ``shape`` | channels, height, width of the images the network takes; required |
| ``mean``, ``std`` | (pixels in [0, 1] - mean) / std is its input; one value, or one per channel |
| ``transform`` | ``package.module:name``, a function from pixels (after mean and std) [B, C, H, W] to its input |
| ``output`` | ``logits`` (default), ``probabilities``, or ``package.module:name``, a function to logits [B, K] from \
what its forward returns. By default that is a tensor, has ``.logits`` or ``["logits"]``, or is a tuple, its first |
| ``features`` | the layer whose input is the penultimate features; default: the last ``nn.Linear`` that \
gives one value per class |
| ``canvas`` | height, width of the images that attacks and auditor use, if other than ``shape``: larger ones are cut \
to their centre, smaller ones resized |
| any other | an argument of the constructor, as JSON; number of classes and width are passed if it takes them |
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedinverse.errors import ConfigError
from fedinverse.models.classifier import Classifier, Features, ModelSpec
from fedinverse.theirs import TheirError, attribute_at

LOGITS, PROBABILITIES = "logits", "probabilities"
_CLASSES = ("classes", "num_classes", "n_classes", "num_labels")  # what constructors call the number of classes
_PROBE = 2  # images of the forward pass by which a network is understood


@dataclass(frozen=True)
class Declaration:
    """What a user says of a network; see the module's docstring.

    Attributes:
        call: ``package.module:Name`` of the class or function that makes it.
        shape: (C, H, W) of the images it takes.
        mean, std: of its input; empty: pixels as they are.
        transform, output, features: as above; empty: the default.
        canvas: (H, W) of the images attacks and auditor use; empty: the network's own.
        arguments: of the constructor.
    """

    call: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    transform: str = ""
    output: str = ""
    features: str = ""
    canvas: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {"shape": (3,), "canvas": (0, 2), "mean": (0, 1, self.shape[0]), "std": (0, 1, self.shape[0])}
        for key, allowed in lengths.items():
            if len(getattr(self, key)) not in allowed:
                wanted = " or ".join(str(count) for count in sorted({*allowed} - {0}))
                raise ConfigError(f"model '{self.call}': {key} has {len(getattr(self, key))} values, needs {wanted}")
        if min(*self.shape, *self.canvas) < 1 or (self.std and min(self.std) <= 0):
            raise ConfigError(f"model '{self.call}': shape, canvas and std must be positive")

    @property
    def images(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that attacks and auditor use."""
        height, width = self.canvas or self.shape[1:]
        return self.shape[0], height, width

    @property
    def name(self) -> str:
        """The declaration as one line of text; ``read`` reads it."""
        said: dict[str, str] = {}
        for key in ("shape", "mean", "std", "canvas"):
            if getattr(self, key):
                said[key] = ",".join(
                    f"{value:g}" if key in ("mean", "std") else str(value) for value in getattr(self, key)
                )
        said |= {key: getattr(self, key) for key in ("transform", "output", "features") if getattr(self, key)}
        said |= {key: json.dumps(value) for key, value in self.arguments.items()}
        return f"{self.call}?{urlencode(said, safe=',:.', quote_via=quote)}"

    @staticmethod
    def read(name: str) -> "Declaration":
        """Return what ``name`` says.

        Raises:
            ConfigError: the shape is missing, or a value is not what its key takes.
        """
        call, _, query = name.partition("?")
        said = dict(parse_qsl(query, keep_blank_values=True))
        if "shape" not in said:
            raise ConfigError(f"model '{name}' does not say which images it takes; write {call}?shape=3,32,32")
        try:
            shape, canvas = (
                tuple(map(int, said.pop(key).split(","))) if key in said else () for key in ("shape", "canvas")
            )
            mean, std = (tuple(map(float, said.pop(key).split(","))) if key in said else () for key in ("mean", "std"))
            words = {key: said.pop(key, "") for key in ("transform", "output", "features")}
            arguments = {key: json.loads(value) for key, value in said.items()}
        except ValueError as error:
            raise ConfigError(
                f"model '{name}': {error}; shape=3,32,32, mean=0.5 and arguments in JSON are expected"
            ) from None
        if len(shape) != 3:
            raise ConfigError(f"model '{name}': shape needs three numbers: channels, height, width")
        return Declaration(call, (shape[0], shape[1], shape[2]), mean, std, **words, canvas=canvas, arguments=arguments)


def declared(name: str) -> ModelSpec:
    """Return the network that ``name`` declares; nothing is imported before it is built."""
    declaration = Declaration.read(name)
    return ModelSpec(name, declaration.images, declaration.call, partial(DeclaredClassifier, declaration))


class DeclaredClassifier(Classifier):
    """A network of somebody else's between pixels and logits. Its arrays keep its own names. Tap: penultimate."""

    memory_format = torch.contiguous_format  # code that flattens by .view() cannot read channels-last features

    def __init__(self, declaration: Declaration, classes: int, width: float = 1.0) -> None:
        """Build the network and look at one forward pass of it.

        Raises:
            ConfigError: something is missing or does not fit; names the key of the declaration.
            TheirError: its own code failed.
        """
        super().__init__()
        self._mean: Tensor
        self._std: Tensor
        self.declaration, self.classes, self.input_shape = declaration, classes, declaration.images
        self._transform = attribute_at(declaration.transform, "transform") if declaration.transform else None
        self._logits = _output(declaration.output)
        self.network = _constructed(declaration, classes, width)
        for key in ("mean", "std"):
            values = torch.tensor(getattr(declaration, key) or (float(key == "std"),)).view(-1, 1, 1)
            self.register_buffer(f"_{key}", values, persistent=False)
        self.head = self._understood(declaration)

    def features(self, images: Tensor) -> Features:
        """Return penultimate features and logits, float32, of ``images`` [B, C, H, W] in [0, 1]."""
        penultimate: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            penultimate[:] = [(*given, *named.values())[0]]

        handle = self.network.get_submodule(self.head).register_forward_pre_hook(keep, with_kwargs=True)
        try:
            answer = self.network(self.prepared(images))
        finally:
            handle.remove()
        logits, flat = self._logits(answer).float(), penultimate[0].flatten(1).float()
        return Features((flat,), flat, logits)

    def prepared(self, images: Tensor) -> Tensor:
        """Return the network's own input for ``images`` [B, C, H, W] in [0, 1], in the type of its weights."""
        size = self.declaration.shape[1:]
        if tuple(images.shape[2:]) != size:
            images = _fitted(images, size)
        if self.declaration.mean or self.declaration.std:
            images = (images - self._mean) / self._std
        # Of one channel, both layouts look contiguous: only a copy says which it is.
        images = images.clone(memory_format=torch.contiguous_format)
        if self._transform is not None:
            images = self._transform(images)
        kind = next((weight.dtype for weight in self.network.parameters() if weight.is_floating_point()), images.dtype)
        return images.to(kind)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the network's own state, by its own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load the network's own state."""
        return self.network.load_state_dict(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the network's own parameters, by its own names."""
        return self.network.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the network's own buffers, by its own names."""
        return self.network.named_buffers(*args, **kwargs)

    def _understood(self, declaration: Declaration) -> str:
        """Run a forward pass in eval mode, check what it gives, and return the name of the layer to tap."""
        modes = {module: module.training for module in self.network.modules()}
        calls: list[tuple[str, nn.Module, Tensor, Any]] = []

        def note(name: str) -> Callable[..., None]:
            return lambda module, given, named, out: calls.append((name, module, (*given, *named.values())[0], out))

        layers = dict(self.network.named_modules())
        if declaration.features and declaration.features not in layers:
            known = ", ".join(name for name in layers if name)
            raise ConfigError(
                f"model '{declaration.call}': features = '{declaration.features}' is no layer of it ({known})"
            )
        linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
        watched = [declaration.features] if declaration.features else linear
        handles = [layers[name].register_forward_hook(note(name), with_kwargs=True) for name in watched]
        images = torch.rand(_PROBE, *declaration.images, generator=torch.Generator().manual_seed(0))
        self.network.eval()
        try:
            with torch.no_grad():
                try:
                    answer = self.network(self.prepared(images))
                except Exception as error:
                    raise TheirError(
                        f"model '{declaration.call}' cannot read images {declaration.shape}: check inputs.shape, "
                        "mean, std and transform",
                        error,
                    ) from error
                logits = self._logits(answer)
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode
        _check_logits(logits, declaration, self.classes)
        if not declaration.features:  # of several that could be it, the one whose output the logits are
            calls = [call for call in calls if getattr(call[1], "out_features", None) == self.classes]
            calls = [call for call in calls if torch.equal(call[3].flatten(), logits.flatten())] or calls
        if not calls:
            named = ", ".join(name for name in layers if name)
            raise ConfigError(
                f"model '{declaration.call}': no linear layer gives its {self.classes} logits, so that its penultimate "
                f"features are not known; set features to the layer that reads them, one of: {named}"
            )
        name, _, flat, _ = calls[-1]
        if len(flat) != _PROBE:
            raise ConfigError(
                f"model '{declaration.call}': layer '{name}' does not see one row per image; set features"
            )
        return name


def _constructed(declaration: Declaration, classes: int, width: float) -> nn.Module:
    """Call the constructor; the number of classes and the width are passed where it takes them."""
    make = attribute_at(declaration.call, "model")
    if not callable(make):
        raise ConfigError(
            f"model '{declaration.call}' is a {type(make).__name__}; name the class or function that makes it"
        )
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        signature = None
    given = dict(declaration.arguments)
    for key, value in [*((name, classes) for name in _CLASSES), ("width", width)]:
        if signature is not None and key in signature.parameters and key not in given:
            given[key] = value
    arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
    if signature is not None:
        try:
            signature.bind(**given)
        except TypeError as error:
            raise ConfigError(
                f"model '{declaration.call}({arguments})' cannot be called so: {error}. It takes {signature}; write "
                "what is missing by name: model_arguments = { name = value } in audit.toml, or &name=value at the end "
                "of the model's name elsewhere"
            ) from None
    try:
        network = make(**given)
    except Exception as error:
        raise TheirError(f"model '{declaration.call}({arguments})' could not be made", error) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model '{declaration.call}' makes a {type(network).__name__}, not a torch.nn.Module")
    return network


def _output(name: str) -> Callable[[Any], Tensor]:
    """Return the function from what a forward pass returns to logits."""
    if name in ("", LOGITS):
        return _plain
    if name == PROBABILITIES:
        return lambda answer: _plain(answer).float().clamp_min(torch.finfo(torch.float32).tiny).log()
    return attribute_at(name, "output")  # type: ignore[no-any-return]


def _plain(answer: Any) -> Tensor:
    """Return the logits in what networks usually return."""
    if isinstance(answer, Mapping) and "logits" in answer:
        answer = answer["logits"]
    elif hasattr(answer, "logits"):
        answer = answer.logits
    elif isinstance(answer, tuple | list) and answer:
        answer = answer[0]
    if not isinstance(answer, Tensor):
        keys = f" with the keys {sorted(map(str, answer))}" if isinstance(answer, Mapping) else ""
        raise ConfigError(
            f"the network returns a {type(answer).__name__}{keys}; set output to a function (package.module:name) that "
            "makes logits of it"
        )
    return answer


def _check_logits(logits: Any, declaration: Declaration, classes: int) -> None:
    """Refuse what are no logits of ``classes`` classes."""
    who = f"model '{declaration.call}'"
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (_PROBE, classes):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"{who} gives {shape} for {_PROBE} images; {(_PROBE, classes)} is needed for classes = {classes}: correct "
            "classes, or set output to a function that makes logits of it"
        )
    # Of two images, random logits do not look so by chance.
    probable = logits.float()
    if (
        declaration.output in ("", LOGITS)
        and bool((probable >= 0).all())
        and torch.allclose(probable.sum(1), torch.ones(_PROBE), atol=1e-3)
    ):
        raise ConfigError(
            f"{who} gives probabilities (rows from 0 to 1 that add up to 1); set output = '{PROBABILITIES}'"
        )


def _fitted(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``images`` cut to their centre of ``size`` or, where they are smaller, resized."""
    height, width = images.shape[2:]
    if height < size[0] or width < size[1]:
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=False)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, :, top : top + size[0], left : left + size[1]]
