"""What a client-side defence may change, and the registry that names them."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clients.settings import Training
from fedinverse.config import Section, parse
from fedinverse.models import Classifier
from fedinverse.registry import Registry, subclass_of


class NoSettings(Section):
    """A defence without parameters."""


class Defence:
    """Changes a client's local training: its loss, its model, its optimiser. Stateless between rounds.

    A defence is made from its settings at the start of every round. The base class is plain cross-entropy
    training; a defence overrides what it changes. The weights a client sends back always fit the global
    model.
    """

    name: ClassVar[str] = "none"
    Settings: ClassVar[type[Section]] = NoSettings

    def __init__(self, settings: Section) -> None:
        self.settings: Any = settings  # of the class ``Settings``

    @classmethod
    def check(cls, settings: Any, model: Classifier) -> None:
        """Raise ``ConfigError`` naming the fix if this defence cannot work with ``model``; before the run."""

    def try_on(self, model: Classifier, images: Tensor, labels: Tensor) -> None:
        """Raise ``ConfigError`` if it would not do on ``model`` what it promises; before the run, by a few passes.

        Images are [B, C, H, W] in [0, 1], B at least 1; ``model`` is left as it is.
        """

    def prepare(self, model: Classifier, examples: int, generator: torch.Generator) -> Classifier:
        """Return the model to train, sharing ``model``'s weights; once a round, before the optimiser."""
        del examples, generator
        return model

    def wrap_optimizer(
        self, optimizer: torch.optim.Optimizer, training: Training, examples: int
    ) -> torch.optim.Optimizer:
        """Return the optimiser to step with."""
        del training, examples
        return optimizer

    def batches(self, examples: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the index batches, int64 [B], of one epoch over a shard of ``examples`` images.

        Shuffled; a last batch of one image is joined to the one before, since BatchNorm needs two.
        """
        chunks = list(torch.split(torch.randperm(examples, generator=generator), size))
        if len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks[-2:] = [torch.cat(chunks[-2:])]
        yield from chunks

    def loss(self, model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scalar loss, logits [B, K]) of a batch: images [B, C, H, W] in [0, 1], labels int64 [B]."""
        logits = model(images)
        return F.cross_entropy(logits, labels), logits

    def finish(self, model: Classifier) -> None:
        """Undo what ``prepare`` attached and change the weights to send; runs even when training failed."""

    def report(self) -> dict[str, float]:
        """Return figures of this round worth telling the operator (a spent epsilon, say)."""
        return {}


DEFENCES: Registry[type[Defence]] = Registry(
    "defence", "fedinverse.defences", "a subclass of clients.defences.Defence", subclass_of(Defence)
)


register, defence_names, defence_class = DEFENCES.named, DEFENCES.names, DEFENCES.get


@register("none")
class NoDefence(Defence):
    """Plain cross-entropy training: the base class as it is."""


def make_defence(name: str, table: dict[str, Any], origin: str) -> Defence:
    """Build the defence ``name`` from its config table; ``origin`` is named in errors."""
    chosen = defence_class(name)
    return chosen(parse(chosen.Settings, table, f"defence {name}", origin))


def noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator of a defence's noise on ``device``, seeded by one draw of the client's CPU ``generator``."""
    seed = torch.randint(2**62, (1,), generator=generator)
    return torch.Generator(device=device).manual_seed(int(seed))
