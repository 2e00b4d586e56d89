"""What Gaussian noise is worth: epsilon of (epsilon, delta)-differential privacy, by Opacus' accountant."""


def spent_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Return epsilon after ``steps`` Gaussian mechanisms on Poisson samples (Renyi; Mironov et al. 2019).

    Rounds add up in ``steps``: a client who took n steps in each of r rounds has spent
    ``spent_epsilon(noise_multiplier, sample_rate, n * r, delta)``, which is less than r times one round's
    epsilon.

    Args:
        noise_multiplier: standard deviation of the noise over the sensitivity; 0 gives infinity.
        sample_rate: probability of an example to be in a batch, in (0, 1].
        steps: number of noisy steps.
        delta: in (0, 1); below one over the number of examples to mean anything.
    """
    from opacus.accountants import RDPAccountant  # two seconds

    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return float("inf")
    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    return float(accountant.get_epsilon(delta))
