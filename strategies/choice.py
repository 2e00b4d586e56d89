"""Flower's strategies by name, each with the ``Audited`` mixin in front; what cannot work is refused before the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from flwr.app import Message
from flwr.serverapp import strategy as flower

from fedinverse.errors import ConfigError
from fedinverse.registry import Registry
from strategies.audited import EQUAL_WEIGHT, Audited
from strategies.averaging import Averaging
from strategies.central_privacy import wrapper, wrapper_options
from strategies.settings import Aggregation


@dataclass(frozen=True)
class Rule:
    """A Flower strategy and what it does with the updates.

    Attributes:
        averages: it makes one step from a weighted mean; False: it looks at single updates.
    """

    strategy: type[flower.FedAvg]
    averages: bool


def _rule(imported: Any) -> Rule | None:
    """Return the rule that an imported object stands for; a class not known here may look at single updates."""
    if isinstance(imported, Rule):
        return imported
    if not isinstance(imported, type) or not issubclass(imported, flower.FedAvg):
        return None
    return next((rule for rule in STRATEGIES.entries() if rule.strategy is imported), Rule(imported, averages=False))


STRATEGIES: Registry[Rule] = Registry(
    "strategy", "fedinverse.strategies", "a subclass of Flower's FedAvg (flwr.serverapp.strategy) or a Rule", _rule
)
for _name, _class, _averages in (
    ("fedavg", flower.FedAvg, True),
    ("fedprox", flower.FedProx, True),
    ("fedavgm", flower.FedAvgM, True),
    ("fedadam", flower.FedAdam, True),
    ("fedadagrad", flower.FedAdagrad, True),
    ("fedyogi", flower.FedYogi, True),
    ("fedmedian", flower.FedMedian, False),
    ("fedtrimmedavg", flower.FedTrimmedAvg, False),
    ("krum", flower.Krum, False),
    ("multikrum", flower.MultiKrum, False),
    ("bulyan", flower.Bulyan, False),
):
    STRATEGIES.register(_name, Rule(_class, _averages), __name__)
_PLAIN = ("fedavg", "fedprox")  # the mean is the new model


class Strategy(Protocol):
    """An audited Flower strategy."""

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """See ``Audited.begin``."""

    def read_early(self, reply: Message) -> None:
        """See ``Audited.read_early``."""

    def start(self, *args: Any, **kwargs: Any) -> Any:
        """See Flower's ``Strategy.start``."""


def averages_plainly(name: str) -> bool:
    """Return whether the mean of the clients' weights is the new model under the strategy ``name``."""
    return name in _PLAIN


strategy_names = STRATEGIES.names


def make_strategy(settings: Aggregation, clients: int, seed: int, origin: str) -> Strategy:
    """Build the audited strategy of ``settings`` for ``clients`` clients.

    Raises:
        ConfigError: unknown strategy or option, too few participants for it, or things that do not go together;
            names ``origin``, the key and the fix.
    """
    name, participants = settings.strategy, settings.participants(clients)
    try:
        rule = STRATEGIES.get(name)
    except ConfigError as error:
        raise ConfigError(f"{origin}: 'federation.strategy': {error}") from None
    _check_combination(settings, rule, participants, origin)
    weighted_by = "num-examples" if settings.averaging == "weighted" else EQUAL_WEIGHT
    marks = {
        "weighted_by": weighted_by,
        "shows_buffers": not rule.averages,
        "max_update_norm": settings.max_update_norm,
        "watches": settings.watch_updates,
    }
    options = {
        # Selection has already sampled: the strategy takes every node it is shown.
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "weighted_by_key": weighted_by,
        **settings.options,
    }
    chosen = rule.strategy
    if settings.privacy.kind == "none":
        bases = (Audited, Averaging) if chosen is flower.FedAvg else (Audited, chosen, Averaging)
        audited = type(f"Audited{chosen.__name__}", bases, marks)
        strategy = _built(lambda: audited(**options), f"'federation.options' does not suit strategy '{name}'", origin)
        _check_count(name, strategy, participants, origin)
        return cast(Strategy, strategy)
    inner = _built(lambda: chosen(**options), f"'federation.options' does not suit strategy '{name}'", origin)
    mixin, wrapping = wrapper(settings.privacy)
    private = type(f"Audited{wrapping.__name__}", (Audited, mixin, wrapping), marks)
    around = wrapper_options(settings.privacy, participants)
    strategy = _built(lambda: private(inner, **around), "'federation.privacy' cannot work", origin)
    strategy.set_up(settings.privacy, seed)
    return cast(Strategy, strategy)


def _built(make: Callable[[], Any], what: str, origin: str) -> Any:
    try:
        return make()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{origin}: {what}: {error}") from error


def _check_combination(settings: Aggregation, rule: Rule, participants: int, origin: str) -> None:
    name, secure = settings.strategy, settings.secure_aggregation
    if settings.privacy.kind != "none":
        if name not in _PLAIN:
            raise ConfigError(
                f"{origin}: 'federation.privacy' needs strategy 'fedavg' or 'fedprox': Flower adds the noise after the "
                f"strategy's own step, and only for a plain mean has it the size that is accounted; '{name}' is none"
            )
        if settings.averaging != "unweighted":
            raise ConfigError(
                f"{origin}: 'federation.privacy' needs federation.averaging = \"unweighted\": a client that weighs "
                "more than others would be clipped and noised as if it did not"
            )
    if not secure.enabled:
        return
    if settings.watch_updates:
        raise ConfigError(
            f"{origin}: 'federation.watch_updates' needs single updates, which 'federation.secure_aggregation' hides; "
            "turn one of them off"
        )
    if not rule.averages:
        averaging = sorted(known for known in strategy_names() if STRATEGIES.get(known).averages)
        raise ConfigError(
            f"{origin}: strategy '{name}' looks at single updates, which 'federation.secure_aggregation' hides; "
            f"use one of {', '.join(averaging)}"
        )
    if settings.privacy.kind.startswith("server"):
        raise ConfigError(
            f"{origin}: with 'federation.secure_aggregation' the server sees no update that it could clip; "
            "set federation.privacy.kind to 'client_fixed' or 'client_adaptive'"
        )
    most = secure.modulus_range // secure.quantization_range
    if not 3 <= participants <= most:  # of two, each knows the other's update from the sum
        raise ConfigError(
            f"{origin}: 'federation.secure_aggregation' needs 3 to {most} clients in a round, {participants} train; "
            "change federation.fraction_train, or quantization_range"
        )


def _check_count(name: str, strategy: Any, participants: int, origin: str) -> None:
    """Refuse fewer participants than a robust rule needs: Flower would skip rounds, or trim nobody."""
    liars = getattr(strategy, "num_malicious_nodes", 0)
    needed, why = 1, ""
    if name in ("krum", "multikrum"):
        needed, why = 2 * liars + 3, f"2 f + 3 for f = num_malicious_nodes = {liars}"
    elif name == "bulyan":
        needed, why = 4 * liars + 3, f"4 f + 3 for f = num_malicious_nodes = {liars}"
    elif name == "fedmedian":
        needed, why = 3, "a median of fewer is their mean"
    elif name == "fedtrimmedavg" and strategy.beta > 0 and int(strategy.beta * participants) < 1:
        needed, why = int(1 / strategy.beta + 1 - 1e-9), f"with beta = {strategy.beta:g} it trims nobody of fewer"
    if participants < needed:
        raise ConfigError(
            f"{origin}: strategy '{name}' needs {needed} clients in a round ({why}), {participants} train; "
            "raise federation.fraction_train or population.clients"
        )
    if name == "multikrum" and strategy.num_nodes_to_select > participants - liars:
        raise ConfigError(
            f"{origin}: 'federation.options.num_nodes_to_select' is {strategy.num_nodes_to_select}, but of "
            f"{participants} clients in a round {liars} may be malicious; make it at most {participants - liars}"
        )
