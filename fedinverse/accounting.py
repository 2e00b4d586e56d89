"""What Gaussian noise is worth: epsilon of (epsilon, delta)-differential privacy, by Opacus' accountant."""

import math
import warnings
from collections.abc import Iterable
from functools import lru_cache

from fedinverse.errors import ConfigError

# Less noise than this leaves no privacy that a figure could say. More is reckoned as the most: Opacus' series take for
# ever on it, and to claim less privacy than there is does no harm.
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e3
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

    A client's rounds compose this way: n steps in each of r rounds are n r steps. Noise below 0.001 counts as none,
    above 1,000 as 1,000.

    Raises:
        ConfigError: a figure is not finite or out of range; the message names it.
    """
    mechanisms = list(mechanisms)
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta:g}; it must be above 0 and below 1")
    for noise_multiplier, sample_rate, count in mechanisms:
        if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
            raise ConfigError(f"a noise multiplier is {noise_multiplier:g}; it must be finite and at least 0")
        if not 0 < sample_rate <= 1:
            raise ConfigError(f"a sample rate is {sample_rate:g}; it must be above 0 and at most 1")
        if not (math.isfinite(count) and count >= 0 and count == int(count)):
            raise ConfigError(f"a number of steps is {count}; it must be a whole number, at least 0")
    steps: dict[tuple[float, float], int] = {}
    for noise_multiplier, sample_rate, count in mechanisms:
        event = min(float(noise_multiplier), _MOST_NOISE), float(sample_rate)
        steps[event] = steps.get(event, 0) + int(count)
    return _epsilon(tuple(sorted((*mechanism, count) for mechanism, count in steps.items() if count)), delta)


@lru_cache(maxsize=4096)  # clients with equally many images spend alike, and one takes Opacus 60 ms
def _epsilon(history: tuple[Mechanism, ...], delta: float) -> float:
    from opacus.accountants import RDPAccountant  # two seconds

    if not history:
        return 0.0
    if history[0][0] < _LEAST_NOISE:
        return float("inf")
    accountant = RDPAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():  # very much or little noise: another order would make a tiny epsilon tinier
        warnings.filterwarnings("ignore", "Optimal order is the")
        return float(accountant.get_epsilon(delta))
