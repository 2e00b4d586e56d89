"""Our accountant beside a second library and beside a closed form."""

import math

import pytest
from scipy import optimize, special

from fedinverse.accounting import spent_epsilon

# (noise multiplier, sample rate, steps, delta): epsilon by dp-accounting 0.6.0, Renyi and privacy loss distributions
# (benchmarks/accountants.py). The second is tight up to its discretisation of .001.
REFERENCE = {
    (0.5, 0.05, 200, 1e-5): (28.2698, 24.7422),
    (1.0, 0.25, 40, 1e-5): (12.5973, 11.2837),
    (2.0, 0.25, 40, 1e-5): (4.3604, 3.9543),
    (0.8, 0.016, 500, 1e-5): (4.3856, 3.7488),
    (1.0, 1.0, 10, 1e-5): (19.0536, 17.8566),
    (4.0, 1.0, 50, 1e-6): (10.0894, 9.4822),
    (0.3, 0.1, 12, 1e-4): (38.3116, 32.1755),
    (10.0, 0.5, 1000, 1e-5): (8.1319, 7.5455),
}


@pytest.mark.parametrize(("case", "epsilons"), REFERENCE.items())
def test_it_agrees_with_another_librarys_and_is_never_below_the_tight_one(
    case: tuple[float, float, int, float], epsilons: tuple[float, float]
) -> None:
    renyi, tight = epsilons
    ours = spent_epsilon(*case)
    assert ours == pytest.approx(renyi, rel=0.011)  # other orders
    assert tight < ours < 1.2 * tight


def _delta_of_gaussian(epsilon: float, noise: float) -> float:
    """Return the exact delta of one Gaussian mechanism (Balle and Wang, ICML 2018, theorem 8)."""
    near, far = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    return float(special.ndtr(near) - math.exp(epsilon) * special.ndtr(far))


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (3.0, 20), (5.0, 400)])
def test_without_sampling_it_lies_above_the_exact_epsilon(noise: float, steps: int) -> None:
    together = noise / math.sqrt(steps)  # n Gaussian mechanisms are one of less noise
    exact = float(optimize.brentq(lambda epsilon: _delta_of_gaussian(epsilon, together) - 1e-5, 0.0, 200.0))
    assert exact < spent_epsilon(noise, 1.0, steps, 1e-5) < 1.13 * exact
