"""Copy detection: planted copies are found, images of the same classes that nobody copied are not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.metrics.copies import RATE, Copies, benjamini_hochberg, tail_p
from auditor.metrics.copies import copies as copies_at
from auditor.metrics.distances import nearest
from auditor.omitted import Omitted


def normal(seed: int, count: int, size: int = 8) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def copies(features: Tensor, train: Tensor, reserve: Tensor) -> Copies | Omitted:
    return copies_at(nearest(features, train), nearest(reserve, train).distance)


def test_planted_copies_are_found_with_their_originals() -> None:
    # Fails if the null sample is not of the same kind, if p-values stop at 1 / R, or if pairs are mixed up.
    train, reserve = normal(0, 300), normal(1, 200)
    planted = train[[5, 17, 17, 200]] + 0.01 * normal(2, 4)
    copied = copies(torch.cat([planted, normal(3, 46)]), train, reserve)
    assert isinstance(copied, Copies)
    assert copied.called[:4].all()
    assert copied.called[4:].sum() <= 1
    assert copied.original[:4].tolist() == [5, 17, 17, 200]
    assert copied.originals >= 3
    assert copied.expected_false == pytest.approx(RATE * int(copied.called.sum()))


def test_without_copying_hardly_anything_is_called_a_copy() -> None:
    # The rate of false discoveries under the null is the chance of calling anything: at most 5 %, give or take.
    called = [copies(normal(10 + s, 50), normal(500 + s, 300), normal(1000 + s, 200)) for s in range(40)]
    assert sum(bool(each.called.any()) for each in called if isinstance(each, Copies)) <= 4


def test_the_tail_is_as_the_distribution_and_never_zero() -> None:
    # Uniform null: P(D <= d) = d.
    null = np.sort(np.random.default_rng(0).random(2000))
    given = np.array([0.05, 0.09, 0.5, 0.9])
    assert tail_p(given, null) == pytest.approx(given, rel=0.1, abs=0.02)
    assert (tail_p(np.array([0.001, 0.01]), null) >= [0.001, 0.01]).all()  # the side it errs to
    assert (tail_p(np.array([-5.0, 0.0]), null) > 0).all()
    assert tail_p(np.array([1.0]), np.ones(200))[0] == pytest.approx(1)


def test_benjamini_hochberg_by_hand() -> None:
    # Steps of .05 / 4: .0125, .025, .0375, .05. The third passes, so all before it are rejected too.
    corrected = benjamini_hochberg(np.array([0.037, 0.001, 0.03, 0.2]))
    assert corrected == pytest.approx([0.037 * 4 / 3, 0.004, 0.037 * 4 / 3, 0.2])  # .03 x 4 / 2 is more than the next
    assert (corrected <= 0.05).tolist() == [True, True, True, False]
    assert not (benjamini_hochberg(np.array([0.2, 0.06])) <= 0.05).any()


def test_too_few_real_images_give_a_reason() -> None:
    assert isinstance(copies(normal(0, 5), normal(1, 10), normal(2, 49)), Omitted)
