"""Every registered defence through one harness, then what each of them promises."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clients.defences import Defence, defence_class, defence_names, make_defence
from clients.defences.defence import NoSettings
from clients.defences.dp_sgd import DpSgd
from clients.settings import Training
from clients.training import TrainingDivergedError, TrainResult, train
from fedinverse.accounting import spent_epsilon
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier, build
from fedinverse.models.vib import VIBHead, log_softplus
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.storage import into_module, save_weights, to_weights

NET = {"mid": "mcnn_vib", "dp_sgd": "mcnn_gn"}  # the others train plain MCNN
TRAINING = Training(epochs=2, batch_size=8, lr=0.01)


def small(name: str = "none") -> Classifier:
    return build(NET.get(name, "mcnn"), 4, width=0.1, seed=3)


def shard(count: int = 24) -> Shard:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (count, 1, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (count,), generator=generator)
    return Shard(images.contiguous(memory_format=torch.channels_last), labels)


def trained(
    name: str, table: dict[str, Any] | None = None, training: Training = TRAINING, data: Shard | None = None
) -> tuple[Classifier, Defence, TrainResult]:
    model = small(name)
    defence = make_defence(name, table or {}, "test")
    result = train(model, data or shard(), training, defence, torch.Generator().manual_seed(7))
    return model, defence, result


def same(first: Classifier, second: Classifier) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def update(model: Classifier, name: str = "none") -> Tensor:
    start = small(name)
    return torch.cat([(w - s).flatten() for w, s in zip(model.parameters(), start.parameters(), strict=True)])


# ------------------------------------------------------------------ all of them


@pytest.mark.parametrize("name", defence_names())
def test_trains_and_fits_the_global_model(name: str) -> None:
    model, defence, result = trained(name)
    defence_class(name).check(defence.settings, small(name))
    again, _, repeated = trained(name)
    assert same(model, again)
    assert result == repeated
    assert result.examples == 24
    assert math.isfinite(result.loss)
    assert 0 <= result.accuracy <= 1
    into_module(small(name), to_weights(model), "test")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert update(model, name).abs().max() > 0
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(module.training for module in model.modules())
    assert all(math.isfinite(value) for value in defence.report().values())


@pytest.mark.parametrize("name", defence_names())
def test_a_model_can_be_trained_on_after_a_round(name: str) -> None:
    """An actor keeps one model object: nothing of a round may stay attached to it."""
    model, _, _ = trained(name)
    model.load_state_dict(small(name).state_dict())
    train(model, shard(), TRAINING, make_defence("none", {}, "test"), torch.Generator().manual_seed(7))
    clean = small(name)
    train(clean, shard(), TRAINING, make_defence("none", {}, "test"), torch.Generator().manual_seed(7))
    assert same(model, clean)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("bido_hsic", {"lambda_x": 1e38, "lambda_y": 1e38}),
        ("bido_coco", {"lambda_x": 1e38}),
        ("mid_coco", {"lambda_x": 1e38}),
        ("mid", {"beta": 1e38}),
        ("neg_label_smoothing", {"alpha": -9.0}),
        ("update_noise", {"clip_norm": 1e38, "noise_multiplier": 1e38}),
    ],
)
def test_divergence_is_reported_and_leaves_nothing_behind(name: str, table: dict[str, Any]) -> None:
    with pytest.raises(TrainingDivergedError, match=f"defence '{name}' diverged"):
        trained(name, table, Training(epochs=6, batch_size=8, lr=1e3 if name == "neg_label_smoothing" else 0.01))


@pytest.mark.parametrize("name", [name for name in defence_names() if name != "none"])
def test_nan_and_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        make_defence(name, {"lamda": 1.0}, "test")
    numbers = [key for key, field in defence_class(name).Settings.model_fields.items() if field.annotation is float]
    for key in numbers:
        with pytest.raises(ConfigError, match=key):
            make_defence(name, {key: float("nan")}, "test")


@pytest.mark.parametrize("name", [name for name in defence_names() if name not in NET])
def test_what_the_architecture_freezes_stays_frozen(name: str) -> None:
    """As the last bias of VGG16: noise must not reach it, nor must unfreezing."""
    model = small(name)
    bias = next(model.blocks[0].parameters())  # type: ignore[index,operator]
    bias.requires_grad_(False)
    before = bias.clone()
    train(model, shard(), TRAINING, make_defence(name, {}, "test"), torch.Generator().manual_seed(7))
    assert torch.equal(bias, before)
    assert not bias.requires_grad


# ------------------------------------------------------------------ BiDO


@pytest.mark.parametrize("name", ["bido_hsic", "bido_coco", "mid_coco"])
def test_weight_zero_is_plain_training_bit_for_bit(name: str) -> None:
    table = {"lambda_x": 0.0} | ({} if name == "mid_coco" else {"lambda_y": 0.0})
    assert same(trained(name, table)[0], trained("none")[0])


@pytest.mark.parametrize("name", ["bido_hsic", "bido_coco"])
def test_published_numerics_give_the_published_sum(name: str) -> None:
    model, data = small().train(), shard()
    images = (data.images / 255).contiguous(memory_format=torch.channels_last)
    losses = {}
    for numerics in ("symmetric", "published"):
        defence = make_defence(name, {"numerics": numerics, "lambda_x": 1.0, "lambda_y": 0.0}, "test")
        losses[numerics] = defence.loss(model, images, data.labels)[0].item()
    plain = F.cross_entropy(model(images), data.labels).item()
    assert losses["published"] == pytest.approx(losses["symmetric"], rel=1e-2)
    assert losses["symmetric"] > plain


def test_mid_coco_has_a_linear_kernel_on_the_logits() -> None:
    model, data = small().train(), shard()
    images = (data.images / 255).contiguous(memory_format=torch.channels_last)
    loss, logits = make_defence("mid_coco", {"lambda_x": 3.0}, "test").loss(model, images, data.labels)
    m = len(images)
    h = torch.eye(m, dtype=torch.float64) - 1 / m
    rows, out = images.double().flatten(1), logits.double()
    kernel = torch.exp(-torch.cdist(rows, rows).square() / (2 * 25 * rows.shape[1]))
    expected = 3 * torch.linalg.norm(h @ kernel @ h @ h @ (out @ out.T) @ h).sqrt() / m
    assert loss.item() - F.cross_entropy(logits, data.labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_flips_mirror_about_half_of_the_images_and_nothing_else() -> None:
    class Watch(type(make_defence("none", {}, "test"))):  # type: ignore[misc]
        def loss(self, model: Any, images: torch.Tensor, labels: torch.Tensor) -> Any:
            batches.append(images)
            return super().loss(model, images, labels)

    data = shard(64)
    for flips in (False, True):
        batches: list[torch.Tensor] = []
        train(small(), data, Training(batch_size=64, flips=flips), Watch(NoSettings()), generator(0, "flips"))
        (seen,), originals = batches, data.images / 255
        as_it_is = torch.tensor([bool((originals == image).flatten(1).all(1).any()) for image in seen])
        mirrored = torch.tensor([bool((originals.flip(3) == image).flatten(1).all(1).any()) for image in seen])
        assert (as_it_is | mirrored).all()
        assert int(as_it_is.sum()) == 64 if not flips else 20 < int(as_it_is.sum()) < 44


@pytest.mark.parametrize("name", ["bido_hsic", "bido_coco"])
def test_bido_on_one_class_and_on_a_batch_of_one(name: str) -> None:
    data = shard(9)
    lonely = Shard(data.images, torch.zeros_like(data.labels))
    model, _, _ = trained(name, data=lonely)
    assert all(value.isfinite().all() for value in model.state_dict().values())


# ------------------------------------------------------------------ label smoothing


@pytest.mark.parametrize("alpha", [-0.05, 0.0, 0.3])
def test_label_smoothing_is_cross_entropy_to_smoothed_targets(alpha: float) -> None:
    model, data = small().eval(), shard()
    images = data.images / 255
    targets = (1 - alpha) * F.one_hot(data.labels, 4) + alpha / 4
    expected = -(targets * model(images).log_softmax(1)).sum(1).mean()
    loss, _ = make_defence("neg_label_smoothing", {"alpha": alpha}, "test").loss(model, images, data.labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# ------------------------------------------------------------------ MID


def test_vib_closed_form() -> None:
    head = VIBHead(8, 3)
    nn.init.zeros_(head.statistics.weight)
    nn.init.zeros_(head.statistics.bias)
    _, kl = head.sample(torch.rand(5, 8), torch.Generator().manual_seed(0))
    assert F.softplus(torch.tensor(-5.0)).item() == pytest.approx(0.0067153, abs=1e-7)
    assert kl.tolist() == pytest.approx([4 * 4.50338] * 5, rel=1e-6)


def test_log_softplus_does_not_underflow() -> None:
    t = torch.tensor([-1e4, -200.0, -20.001, -19.999, -3.0, 0.0, 50.0], requires_grad=True)
    expected = torch.nn.functional.softplus(t.detach().double()[2:]).log()
    value = log_softplus(t)
    torch.testing.assert_close(value[2:].double(), expected, rtol=1e-6, atol=1e-6)
    assert value[:2].tolist() == [-1e4, -200.0]
    value.sum().backward()
    assert t.grad is not None
    assert t.grad[:2].tolist() == [1.0, 1.0]
    assert t.grad.isfinite().all()


def test_mid_needs_the_head_and_evaluates_without_noise() -> None:
    defence = defence_class("mid")
    with pytest.raises(ConfigError, match="mcnn_vib"):
        defence.check(defence.Settings(), small())
    model, images = small("mid").eval(), torch.rand(3, 1, 32, 32)
    assert torch.equal(model(images), model(images))
    head = model.head
    assert isinstance(head, VIBHead)
    flat = model.features(images).penultimate
    noise = torch.Generator().manual_seed(0)
    assert not torch.equal(head.sample(flat, noise)[0], head.sample(flat, noise)[0])


def test_mid_warm_up_weakens_the_first_steps() -> None:
    images, labels = torch.rand(8, 1, 32, 32), torch.zeros(8, dtype=torch.long)

    def first_two(table: dict[str, Any]) -> list[float]:
        model, defence = small("mid").train(), make_defence("mid", table, "test")
        defence.prepare(model, 8, torch.Generator().manual_seed(0))
        return [defence.loss(model, images, labels)[0].item() for _ in range(2)]

    full, warm, none = (
        first_two({"beta": 1.0}),
        first_two({"beta": 1.0, "warmup_steps": 2}),
        first_two({"beta": 0.0}),
    )
    assert warm[0] == pytest.approx((full[0] + none[0]) / 2, rel=1e-4)
    assert warm[1] == pytest.approx(full[1], rel=1e-6)


# ------------------------------------------------------------------ TL


def test_tl_freezes_the_front_with_its_statistics() -> None:
    model, _, _ = trained("tl", {"frozen_blocks": 2})
    before, after = small().state_dict(), model.state_dict()
    frozen = [name for name in before if name.startswith(("blocks.0.", "blocks.1."))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["blocks.2.0.weight"], after["blocks.2.0.weight"])


def test_tl_takes_the_front_from_a_checkpoint(tmp_path: Path) -> None:
    other = build("mcnn", 7, width=0.1, seed=99)  # trained for other classes: only the front must fit
    save_weights(tmp_path / "front.safetensors", to_weights(other))
    table = {"frozen_blocks": 1, "checkpoint": str(tmp_path / "front.safetensors")}
    model, defence, _ = trained("tl", table)
    defence.check(defence.settings, small())
    assert torch.equal(model.state_dict()["blocks.0.0.weight"], other.state_dict()["blocks.0.0.weight"])
    assert not torch.equal(model.state_dict()["blocks.1.0.weight"], other.state_dict()["blocks.1.0.weight"])
    with pytest.raises(ConfigError, match=r"does not fit.*same model and width"):
        defence.check(defence.settings, build("mcnn", 4, width=0.2, seed=0))


def test_tl_refuses_what_cannot_be_frozen(tmp_path: Path) -> None:
    tl = defence_class("tl")
    with pytest.raises(ConfigError, match="has 3 blocks"):
        tl.check(make_defence("tl", {"frozen_blocks": 3}, "test").settings, small())
    with pytest.raises(ConfigError, match="does not exist"):
        tl.check(make_defence("tl", {"checkpoint": str(tmp_path / "no")}, "test").settings, small())


# ------------------------------------------------------------------ DP-SGD


def test_dp_sgd_refuses_batch_norm() -> None:
    dp = defence_class("dp_sgd")
    with pytest.raises(ConfigError, match=r"BatchNorm of MCNN.*'mcnn_gn'"):
        dp.check(dp.Settings(), small())


def test_group_norm_takes_the_place_of_every_batch_norm() -> None:
    """As many channels to a group at every width; two values of a 1x1 block would be normalised to a sign."""
    converted = build("mcnn_gn", 4, 0.25)
    norms = [module for module in converted.modules() if isinstance(module, nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(8, 16), (8, 32), (8, 64)]
    assert not list(converted.buffers())
    DpSgd.check(DpSgd.Settings(), converted)


def test_dp_sgd_bounds_what_one_image_can_change() -> None:
    """Without noise and with B = N, one step moves the weights by at most lr * C."""
    data = shard(8)
    training = Training(epochs=1, batch_size=8, lr=1.0, momentum=0.0)
    for bound in (0.01, 0.1):
        model, _, _ = trained("dp_sgd", {"noise_multiplier": 0.0, "max_grad_norm": bound}, training, data)
        assert 0 < update(model, "dp_sgd").norm() <= bound * (1 + 1e-4)


def test_dp_sgd_is_the_mean_of_clipped_gradients() -> None:
    data, bound = shard(6), 0.05
    model, _, _ = trained(
        "dp_sgd",
        {"noise_multiplier": 0.0, "max_grad_norm": bound},
        Training(epochs=1, batch_size=6, lr=1.0, momentum=0.0),
        data,
    )
    total = torch.zeros_like(update(model, "dp_sgd"))
    for image, label in zip(data.images, data.labels, strict=True):
        start = small("dp_sgd").train()
        loss = F.cross_entropy(start(image[None] / 255), label[None])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(start.parameters()))])
        total += gradient * min(1.0, bound / gradient.norm().item())
    torch.testing.assert_close(update(model, "dp_sgd"), -total / 6, rtol=1e-3, atol=1e-6)


def test_dp_sgd_noise_has_the_accounted_size() -> None:
    """One step, sigma C / B per weight; the gradients add at most C / B in all."""
    model, defence, _ = trained(
        "dp_sgd",
        {"noise_multiplier": 20.0, "max_grad_norm": 0.5},
        Training(epochs=1, batch_size=24, lr=1.0, momentum=0.0),
    )
    assert update(model, "dp_sgd").std().item() == pytest.approx(20 * 0.5 / 24, rel=0.02)
    assert defence.report()["dp_sample_rate"] == 1
    assert defence.report()["dp_steps"] == 1


def test_dp_sgd_batches_are_poisson_samples_and_may_be_empty() -> None:
    defence = DpSgd(DpSgd.Settings())
    defence.wrap_optimizer(torch.optim.SGD(small("dp_sgd").parameters()), Training(batch_size=2), 400)
    sizes = [len(rows) for rows in defence.batches(400, 2, torch.Generator().manual_seed(0))]
    assert len(sizes) == 200
    assert 0 in sizes
    assert sum(sizes) / 200 == pytest.approx(2, abs=4 * math.sqrt(2 / 200))
    model, _, result = trained("dp_sgd", {}, Training(epochs=4, batch_size=1))
    assert math.isfinite(result.loss)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_epsilon_composes_over_rounds() -> None:
    _, defence, _ = trained("dp_sgd", {"noise_multiplier": 1.5})
    report = defence.report()
    assert report["dp_steps"] == 6
    one = spent_epsilon(1.5, report["dp_sample_rate"], 6, 1e-5)
    assert report["epsilon_round"] == one
    assert one < spent_epsilon(1.5, report["dp_sample_rate"], 60, 1e-5) < 10 * one
    assert spent_epsilon(1.0, 0.1, 0, 1e-5) == 0
    assert spent_epsilon(0.0, 0.1, 1, 1e-5) == math.inf


# ------------------------------------------------------------------ updates


def test_update_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    plain, _, _ = trained("none")
    bound = update(plain).norm().item() / 3
    clipped, _, _ = trained("update_noise", {"clip_norm": bound, "noise_multiplier": 0.0})
    torch.testing.assert_close(update(clipped), update(plain) / 3, rtol=1e-3, atol=1e-7)
    wide, _, _ = trained("update_noise", {"clip_norm": 1e6, "noise_multiplier": 0.0})
    torch.testing.assert_close(update(wide), update(plain), rtol=1e-4, atol=1e-7)


def test_update_noise_has_its_size_and_spares_buffers() -> None:
    noisy, defence, _ = trained("update_noise", {"clip_norm": 1e-3, "noise_multiplier": 1000.0})
    assert update(noisy).std().item() == pytest.approx(1.0, rel=0.05)
    plain = trained("none")[0].state_dict()
    buffers = [name for name, _ in noisy.named_buffers()]
    assert buffers
    assert all(torch.equal(noisy.state_dict()[name], plain[name]) for name in buffers)
    assert defence.report() == {}  # buffers went along without noise: no epsilon to claim


def test_update_noise_reports_epsilon_without_buffers() -> None:
    model, defence = small("dp_sgd"), make_defence("update_noise", {"noise_multiplier": 10.0}, "test")
    train(model, shard(), TRAINING, defence, torch.Generator().manual_seed(7))
    assert defence.report()["epsilon_round"] == spent_epsilon(5.0, 1.0, 1, 1e-5)


@pytest.mark.parametrize("keep", [0.01, 0.5, 1.0])
def test_pruning_keeps_the_largest_changes_exactly(keep: float) -> None:
    plain, pruned = update(trained("none")[0]), update(trained("update_pruning", {"keep": keep})[0])
    kept = pruned != 0
    assert kept.sum() <= round(keep * len(plain))
    assert torch.equal(pruned[kept], plain[kept])
    if keep < 1:
        assert plain[kept].abs().min() >= plain[~kept].abs().max()
