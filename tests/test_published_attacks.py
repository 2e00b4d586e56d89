"""Where attacks and priors follow the published code, written out again here in its own terms."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from attack_bench import CPU, attack, public, target
from torch import nn

from attacker.attacks.posteriors import Flow, FlowShape
from attacker.losses.objective import objective
from attacker.losses.students import divergence
from attacker.priors.instance_norm import InstanceNorm2d
from attacker.priors.kplus1 import Discriminator
from attacker.priors.plg_gan import ConditionalGenerator, PlgGan
from attacker.target import public_view


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 64)])
def test_every_convolution_of_the_kplus1_critic_is_normalised(shape: tuple[int, int, int]) -> None:
    D = Discriminator(shape, 5, 0.1, False)
    layers = [layer for layer in D.layers if not isinstance(layer, nn.LeakyReLU | nn.Flatten)]
    assert [type(layer) for layer in layers[1::2]] == [InstanceNorm2d] * (len(layers) // 2)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    features, faint = D(images)[0], D(0.5 * images)[0]
    # without a norm after the first layer, half the contrast moved the features by a tenth and more
    assert float(((features - faint).norm() / features.norm()).detach()) < 0.02


def test_the_logit_loss_is_held_near_the_mean_of_public_features_in_the_target_only() -> None:
    """LOM: -l_y + mean (f - f_pub)^2 with f_pub the mean over public images; LOMMA's students: -l_y."""
    tested, victim = (
        attack("gmi", {"identity_loss": "logit", "students": 2, "distillation": {"width": 0.1, "steps": 2}}),
        target(),
    )
    goal = objective(tested.settings, victim, public(), seed=0)
    (model, identity), *students = goal.models
    assert model is victim.model
    features, _ = public_view(model, public().images, CPU)
    assert identity.anchor is not None
    torch.testing.assert_close(identity.anchor, features.mean(0))
    assert [student.anchor for _, student in students] == [None, None]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_divided_by_the_squared_temperature(temperature: float) -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(8, 5, generator=random), torch.randn(8, 5, generator=random)
    published = nn.KLDivLoss(reduction="sum")(
        F.log_softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1)
    )
    ours = divergence(student / temperature, (teacher / temperature).softmax(1), temperature)
    torch.testing.assert_close(ours, published / temperature**2 / 8)


def test_the_conditional_generator_has_no_spectral_norm_and_128_numbers() -> None:
    nets = PlgGan(attack("plgmi").settings.prior).networks((1, 32, 32), 5)
    assert isinstance(nets["generator"], ConditionalGenerator)
    prior = attack("plgmi").prior(target(), public(), 0, CPU)
    assert prior.latent == 128
    assert not any("parametrizations" in name for name in prior.generator.state_dict())


def test_the_flow_of_vmi_can_be_the_published_one() -> None:
    def flow(activation: Literal["relu", "elu"]) -> Flow:
        network = Flow(1, 6, FlowShape(1, 1, 7, activation), torch.Generator().manual_seed(1))
        for parameter in network.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        return network

    eps = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(2))
    step = flow("elu").steps[0]
    moving = ((eps + step.shift[:, None]) * step.log_scale.exp()[:, None])[..., step.permutation]
    hidden = moving[..., : step.kept]
    for layer, (weight, bias) in enumerate(zip(step.weights, step.biases, strict=True)):
        hidden = bias + (hidden if layer == 0 else F.elu(hidden)) @ weight
    expected = torch.cat([moving[..., : step.kept], moving[..., step.kept :] + hidden], 2)
    torch.testing.assert_close(flow("elu")(eps).z, expected)
    assert not torch.allclose(flow("relu")(eps).z, expected)
