"""Model augmentation (LOMMA, Nguyen et al. 2023): students distilled from the target on public images.

An inversion that must satisfy the target and n students at once fits less of what is peculiar to the target's weights.
A student is another network for the same images, trained to give the target's soft labels (the attacker never needs a
private label). Students belong to one target: they are cached under its hash.

The divergence is divided by the squared temperature, as in the published code (Hinton et al. multiply by it); Adam's
steps do not depend on such a factor.

| differs from the published code | why |
|---|---|
| Adam with a cosine schedule, 2,000 steps; published: SGD by epochs | short distillations |
| temperature 1; published: set per experiment | the target's own probabilities |
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacker.priors.prior import cached
from attacker.target import PublicSet, Target, public_view
from fedinverse.config import Section
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, build, for_inference, spec_of
from fedinverse.optimisers import Adam, descend
from fedinverse.progress import Progress, silent
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import content_sha256

VERSION = 4  # part of the cache key; raise it when distillation changes
_CHOICE = {
    (1, 32, 32): ("scnn", "lenet5", "mcnn"),
    (3, 32, 32): ("resnet18_32",),
    (3, 64, 64): ("resnet18", "vgg16", "face_evolve"),
}


class DistillationSettings(Section):
    """Distillation of the students."""

    models: tuple[str, ...] = Field(
        (), description="networks of the students, taken in turn; empty: a choice for the target's image shape"
    )
    width: float = Field(0.5, gt=0, le=4, description="multiplies the students' widths")
    steps: int = Field(2000, ge=1, description="optimisation steps")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate, falling to 0 along a cosine")
    temperature: float = Field(1.0, gt=0, description="of both softmaxes")
    seed: int = Field(0, ge=0, description="seed of weights and batches")


def distilled(
    count: int, settings: DistillationSettings, target: Target, public: PublicSet, progress: Progress = silent
) -> list[Classifier]:
    """Return ``count`` students of ``target``, ready for inference, trained or from the cache.

    Raises:
        ConfigError: no student network is known for the target's images, or one takes others.
    """
    if count == 0:
        return []
    shape = target.model.input_shape
    models = settings.models or _CHOICE.get(shape, ())
    if not models:
        raise ConfigError(f"no student network is known for images {shape}; name one in 'distillation.models'")
    for name in models:
        if spec_of(name).input_shape != shape:
            raise ConfigError(
                f"student network '{name}' takes images {spec_of(name).input_shape}, the target takes {shape}; "
                "set 'distillation.models' to networks for those"
            )
    soft: list[Tensor] = []  # the target is asked once, and only if a student is not in the cache

    def labels() -> Tensor:
        if not soft:
            soft.append(public_view(target.model, public.images, target.device)[1].div(settings.temperature).softmax(1))
        return soft[0]

    students = []
    for number in range(count):
        name = models[number % len(models)]
        key = content_sha256(
            {
                "settings": settings.model_dump(mode="json", exclude={"models"}),
                "model": name,
                "number": number,
                "target": target.sha256,
                "public": public.key,
                "version": VERSION,
            }
        )
        student = build(name, target.model.classes, settings.width, derive(settings.seed, "student", number))
        student = student.to(device=target.device)
        random = generator(settings.seed, "student", number, "batches")

        def train(
            progress: Progress, student: Classifier = student, random: torch.Generator = random
        ) -> dict[str, str]:
            with seeded(derive(random.initial_seed(), "layers"), target.device):
                _distil(student, settings, public.images.to(target.device), labels(), random=random, progress=progress)
            return {}

        cached("student", key, nn.ModuleDict({"student": student}), train, progress)
        students.append(for_inference(student, target.device))
    return students


def divergence(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Return the mean KL / T^2 of ``soft`` [B, K] and softmax(``logits``) [B, K], which were divided by T before."""
    return F.kl_div(logits.log_softmax(1), soft, reduction="batchmean") / temperature**2


def _distil(
    student: Classifier,
    settings: DistillationSettings,
    images: Tensor,
    soft: Tensor,
    *,
    random: torch.Generator,
    progress: Progress,
) -> None:
    """Train ``student`` in place: KL of its softmax to the target's, batch by batch."""
    student.train()
    optimiser = Adam(student.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    for step in range(settings.steps):
        rows = torch.randint(len(images), (settings.batch_size,), generator=random).to(images.device)
        logits = student(unit(images[rows], images.device)) / settings.temperature
        loss = divergence(logits, soft[rows], settings.temperature)
        descend(optimiser, loss)
        schedule.step()
        progress("distilling a student", step + 1, settings.steps)
