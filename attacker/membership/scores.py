"""Membership scores: one number per candidate, higher for "this was trained on".

``loss``              minus the loss on the last captured model (Yeom et al. 2018).
``trajectory-mean``   mean over rounds of phi = ln(p_y / (1 - p_y)): members are learned early and stay.
``trajectory-slope``  slope of phi over rounds, by least squares.
``gradient``          minus the gradient norm of all weights on the last model (Nasr et al. 2019).
``last-layer``        minus that of the last layer.
``cosine``            mean over rounds of cos(gradient on theta_t, -D_t): was the others' update one that x explains?
``lira-offline``      P[N(mu, sigma) < phi], mu and sigma of phi over reference models that did not train on x
                      (Carlini et al. 2022, offline).
``rmia``              share of population records z for which (p_x / p_x') / (p_z / p_z') >= gamma, p' the mean over
                      reference models (Zarifzadeh et al. 2024, offline: p' = ((1 + a) p_out + (1 - a)) / 2).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attacker.membership.signals import Signals

SCORES = (
    "loss",
    "trajectory-mean",
    "trajectory-slope",
    "gradient",
    "last-layer",
    "cosine",
    "lira-offline",
    "rmia",
)
FEW_REFERENCES = 8  # below this the deviation of phi is pooled over candidates, as LiRA does with few shadow models
OFFLINE_A = 0.3  # of the offline correction of RMIA, the paper's value for small image sets


@dataclass(frozen=True)
class Population:
    """Records z of the attacker's own that RMIA compares a candidate with, under the target and the references.

    Attributes:
        target: float64 [Z], phi under the target.
        references: float64 [R, Z], phi under each reference.
    """

    target: Tensor
    references: Tensor


def scores_of(seen: Signals) -> dict[str, Tensor]:
    """Return the scores that need captured models alone, float64 [N] each; one model: no slope and no cosine."""
    scores = {
        "loss": -seen.loss[-1],
        "trajectory-mean": seen.phi.mean(0),
        "gradient": -seen.gradient[-1],
    }
    if not seen.last_layer[-1].isnan().any():
        scores["last-layer"] = -seen.last_layer[-1]
    if len(seen.rounds) > 1:
        scores["trajectory-slope"] = slope(seen.phi, torch.tensor(seen.rounds, dtype=torch.float64))
        scores["cosine"] = seen.cosine.mean(0)
    return scores


def slope(values: Tensor, rounds: Tensor) -> Tensor:
    """Return the least-squares slope over ``rounds`` [T] of ``values`` [T, N], float64 [N]."""
    centred = rounds - rounds.mean()
    return (centred @ (values - values.mean(0))) / centred.square().sum()


def lira_offline(phi: Tensor, references: Tensor) -> Tensor:
    """Return P[N(mu, sigma) < phi], float64 [N].

    Args:
        phi: [N], of the candidates under the target.
        references: [R, N], under models that did not train on them; R at least 1.
    """
    mean = references.mean(0)
    if len(references) >= FEW_REFERENCES:
        deviation = references.std(0)
    elif len(references) > 1:
        deviation = (references - mean).square().sum().div((len(references) - 1) * references.shape[1]).sqrt()
    else:
        deviation = torch.ones(())  # one model tells no deviation; the order of the candidates needs none
    # The tail of a large z is 0 or 1 in float64 and would tie: its logarithm is what ranks, and ranks the same.
    tail: Tensor = torch.special.log_ndtr((phi - mean) / deviation.clamp_min(1e-12))
    return tail


def rmia(phi: Tensor, references: Tensor, population: Population, gamma: float = 1.0) -> Tensor:
    """Return the share of population records that a candidate dominates, float64 [N] in [0, 1].

    Args:
        phi: [N], of the candidates under the target.
        references: [R, N], under models that did not train on them.
        population: records to compare with; the more of them, the finer the score.
        gamma: how far a candidate must exceed a record, at least 1.
    """
    of_candidates = _log_ratio(phi, references)
    others = _log_ratio(population.target, population.references)
    return (of_candidates[:, None] - others[None] >= math.log(gamma)).double().mean(1)


def _log_ratio(phi: Tensor, references: Tensor) -> Tensor:
    """Return ln(p / p'), [N]: the target's probability of the true class over the references' corrected mean."""
    out = torch.sigmoid(references).mean(0)
    corrected = ((1 + OFFLINE_A) * out + (1 - OFFLINE_A)) / 2
    return torch.nn.functional.logsigmoid(phi) - corrected.log()
