"""What the tests of the attacks share: tiny targets, a tiny public set, every attack at its smallest."""

from typing import Any

import torch
from torch import Tensor

from attacker.attacks.attack import Attack
from attacker.attacks.registry import make_attack
from attacker.reconstructions import Reconstructions
from attacker.target import PublicSet, Target
from fedinverse.models import build, for_inference
from fedinverse.storage import to_weights, weights_sha256

CPU = torch.device("cpu")
DTYPE = torch.float32  # of target, prior and latents; float64 tells a coupling from rounding
STEPS = 3
TINY: dict[str, dict[str, Any]] = {
    "gmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4}},
    "kedmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4}},
    "vmi": {"iterations": STEPS, "prior": {"width": 0.1, "steps": 1, "batch_size": 4}},
    "plgmi": {
        "iterations": STEPS,
        "lr": 1e-2,
        "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4, "top": 3},
    },
    "deepinversion": {"iterations": STEPS},
    "ifgmi": {
        "iterations": 1,
        "feature_iterations": 1,
        "levels": 2,
        "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 4},
    },
}
# Attacks that optimise one latent per reconstruction; the others fit one distribution per class.
POINTS = {"deepinversion", "gmi", "ifgmi", "plgmi"}
SWITCHES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"identity_loss": loss}) for name in TINY for loss in ("logit", "poincare")),
    *((name, {"identity_loss": "max_margin"}) for name in TINY if name != "plgmi"),  # its default
    *((name, {"augment": 3}) for name in TINY),
    *((name, {"students": 1, "distillation": {"width": 0.1, "steps": 2}}) for name in TINY),
    ("gmi", {"initial_selection": 8}),
    ("kedmi", {"draws": 3}),
    *(("vmi", {"posterior": family}) for family in ("full", "gmm", "flow")),
    ("vmi", {"optimiser": "sgd", "lr": 1e-4}),
]


def target(name: str = "mcnn", seed: int = 3) -> Target:
    model = build(name, 5, width=0.1, seed=seed)
    sha = weights_sha256(to_weights(model))
    return Target(for_inference(model), sha, 1, CPU, captured=model.eval().requires_grad_(False))


def public(count: int = 24) -> PublicSet:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    return PublicSet(images.contiguous(memory_format=torch.channels_last), "public")


def attack(name: str, table: dict[str, Any] | None = None) -> Attack:
    return make_attack({"kind": name} | TINY[name] | (table or {}), "attacks", "test")


def inverted(
    name: str,
    labels: list[int],
    table: dict[str, Any] | None = None,
    seed: int = 7,
    of: Target | None = None,
) -> Reconstructions:
    tested, victim = attack(name, table), of or target()
    prior = tested.prior(victim, public(), 0, CPU)
    for network in (victim.model, victim.captured, prior.generator, prior.critic):
        if network is not None:
            network.to(DTYPE)
    torch.set_default_dtype(DTYPE)
    try:
        return tested.invert(victim, prior, public(), torch.tensor(labels), torch.Generator().manual_seed(seed))
    finally:
        torch.set_default_dtype(torch.float32)


def check(result: Reconstructions, labels: list[int]) -> None:
    assert result.images.shape == (len(labels), 1, 32, 32)
    assert result.images.dtype == torch.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.labels.tolist() == labels
    assert result.latent.shape[0] == len(labels)
    assert result.identity_loss.isfinite().all()
    assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
    assert not result.failed.any()
    assert result.cost.steps == STEPS
    assert result.cost.target_queries > 0
    assert all(not value.requires_grad and not value.is_inference() for value in (result.images, result.latent))


def noise_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
