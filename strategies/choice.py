"""Flower's strategies by name, each with the ``Audited`` mixin in front."""

from typing import Any, Protocol, cast

from flwr.serverapp import strategy as flower

from fedinverse.errors import ConfigError
from strategies.audited import Audited

_FLOWER = {
    "fedavg": flower.FedAvg,
    "fedavgm": flower.FedAvgM,
    "fedadam": flower.FedAdam,
    "fedadagrad": flower.FedAdagrad,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": flower.FedTrimmedAvg,
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": flower.Bulyan,
}


class Strategy(Protocol):
    """An audited Flower strategy."""

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """See ``Audited.begin``."""

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """See Flower's ``Strategy.start``."""


def strategy_names() -> list[str]:
    """Return the names, sorted."""
    return sorted(_FLOWER)


def make_strategy(name: str, options: dict[str, Any], origin: str) -> Strategy:
    """Build the audited strategy ``name`` with Flower's own ``options``.

    Raises:
        ConfigError: unknown strategy or option; names ``origin`` and the key.
    """
    if name not in _FLOWER:
        raise ConfigError(f"{origin}: 'federation.strategy' is '{name}' (known: {', '.join(strategy_names())})")
    audited = type(f"Audited{_FLOWER[name].__name__}", (Audited, _FLOWER[name]), {})
    try:
        # Selection has already sampled: the strategy takes every node it is shown.
        return cast(
            Strategy,
            audited(
                fraction_train=1.0,
                fraction_evaluate=1.0,
                min_train_nodes=1,
                min_evaluate_nodes=1,
                min_available_nodes=1,
                **options,
            ),
        )
    except TypeError as error:
        raise ConfigError(f"{origin}: 'federation.options' does not suit strategy '{name}': {error}") from error
