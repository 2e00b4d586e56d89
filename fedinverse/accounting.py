"""What Gaussian noise is worth: epsilon of (epsilon, delta)-differential privacy, by Opacus' accountant."""

import warnings
from collections.abc import Iterable
from functools import lru_cache

Mechanism = tuple[float, float, int]  # noise multiplier, sample rate, steps


def spent_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return epsilon after ``steps`` Gaussian mechanisms on Poisson samples (Renyi; Mironov et al. 2019).

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity; 0 gives infinity.
        sample_rate: probability of an example to be in a batch, in (0, 1].
        steps: number of noisy steps.
        delta: in (0, 1); below one over the number of examples to mean anything.
    """
    return composed_epsilon([(noise_multiplier, sample_rate, steps)], delta)


def composed_epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return epsilon after all ``mechanisms`` together, which is less than the sum of their epsilons.

    A client's rounds compose this way: n steps in each of r rounds are n r steps.
    """
    steps: dict[tuple[float, float], int] = {}
    for noise_multiplier, sample_rate, count in mechanisms:
        steps[noise_multiplier, sample_rate] = steps.get((noise_multiplier, sample_rate), 0) + count
    return _epsilon(tuple(sorted((*mechanism, count) for mechanism, count in steps.items() if count)), delta)


@lru_cache(maxsize=4096)  # clients with equally many images spend alike, and one takes Opacus 60 ms
def _epsilon(history: tuple[Mechanism, ...], delta: float) -> float:
    from opacus.accountants import RDPAccountant  # two seconds

    if not history:
        return 0.0
    if history[0][0] == 0:
        return float("inf")
    accountant = RDPAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():  # much noise: the order it would rather use makes a tiny epsilon tinier
        warnings.filterwarnings("ignore", "Optimal order is the largest alpha")
        return float(accountant.get_epsilon(delta))
