"""The ``[tracking]`` section, and all trackers of a run, fed from what the run directory records."""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.layout import World
from fedinverse.rounds import Round
from fedinverse.run import Run
from pipeline.tracking.tracker import Tracker

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


class Tracking(Section):
    """Where a run's figures are copied to; nothing leaves the machine."""

    to: tuple[TrackerName, ...] = Field((), description="tensorboard, mlflow (local files), wandb (offline), or none")
    project: str = Field("fedinverse", min_length=1, description="mlflow: experiment; wandb: project")


def check_installed(settings: Tracking, origin: str) -> None:
    """Raise ``ConfigError`` naming the extra if a tracker's package is missing."""
    for name in settings.to:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"{origin}: 'tracking.to' names '{name}', but its package {PACKAGES[name]} is not installed; "
                f"pip install 'fedinverse[{name}]', or take it out"
            )


log = logging.getLogger("fedinverse.tracking")

_CLASSES: dict[TrackerName, str] = {
    "tensorboard": "pipeline.tracking.tensorboard:TensorBoard",
    "mlflow": "pipeline.tracking.mlflow:MLflow",
    "wandb": "pipeline.tracking.wandb:Wandb",
}


class Trackers:
    """Passes figures on to every configured tracker. One that fails is left out from there on, with a warning."""

    def __init__(self, run: Run, settings: Tracking) -> None:
        self._open: dict[TrackerName, Tracker] = {}
        for name in settings.to:
            self._try(name, lambda name=name: self._open.update({name: _class(name)(run, settings.project)}))  # type: ignore[misc]
        for world in run.worlds if self._open else ():
            for line in run.recorded_rounds(world):
                self.round(world, line.round, line.figures)

    def round(self, world: World, number: int, figures: Mapping[str, Any]) -> None:
        """Pass on those ``figures`` of a round that are numbers."""
        self.scalars(number, {f"{world}/{key}": float(value) for key, value in figures.items() if _is_number(value)})

    def after_round(self, over: Round) -> None:
        """Pass on the figures of a round that is over: a callback."""
        self.round(over.world, over.number, over.utility)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on figures of round ``step``."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.scalars(step, values))  # type: ignore[misc]

    def close(self, words: Mapping[str, str]) -> None:
        """Close every tracker; ``words``: the outcome, empty when the run ended early."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.close(words))  # type: ignore[misc]
        self._open.clear()

    def _try(self, name: TrackerName, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a third party's code: whatever it raises, the run's own files are whole
            self._open.pop(name, None)
            log.warning(
                "tracking to %s ended: %s: %s; the run goes on, --resume fills it again",
                name, type(error).__name__, error,
            )  # fmt: skip


def _class(name: TrackerName) -> Callable[[Run, str], Tracker]:
    module, attribute = _CLASSES[name].split(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
