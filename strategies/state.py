"""What a server optimiser remembers between rounds, as named arrays: a resumed run must go on with the same momenta.

``m_t`` and ``v_t`` of FedAdam, FedAdagrad and FedYogi, ``momentum_vector`` of FedAvgM, and the ``clipping_norm`` that
adaptive clipping has come to. Every other Flower strategy starts each round from the model alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BY_NAME, _IN_ORDER, _NUMBER = ("m_t", "v_t"), "momentum_vector", "clipping_norm"


def state_dict(strategy: Any) -> dict[str, NDArray[Any]]:
    """Return a copy of the state of ``strategy`` after a round; empty where there is none."""
    state = {}
    for attribute in _BY_NAME:
        for name, array in (getattr(strategy, attribute, None) or {}).items():
            state[f"{attribute}.{name}"] = np.array(array)
    for number, array in enumerate(getattr(strategy, _IN_ORDER, None) or []):
        state[f"{_IN_ORDER}.{number:05d}"] = np.array(array)
    if hasattr(strategy, _NUMBER):
        state[_NUMBER] = np.array(getattr(strategy, _NUMBER), np.float64)
    return state


def load_state_dict(strategy: Any, state: Mapping[str, NDArray[Any]]) -> None:
    """Give ``strategy`` back what ``state_dict`` returned of one like it."""
    for attribute in _BY_NAME:
        prefix = f"{attribute}."
        arrays = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        if arrays:
            setattr(strategy, attribute, arrays)
    vector = [state[name] for name in sorted(state) if name.startswith(f"{_IN_ORDER}.")]
    if vector:
        setattr(strategy, _IN_ORDER, vector)
    if _NUMBER in state:
        setattr(strategy, _NUMBER, float(state[_NUMBER]))
