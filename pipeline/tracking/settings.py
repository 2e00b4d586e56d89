"""The ``[tracking]`` section of the configuration."""

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from fedinverse.config import Section
from fedinverse.errors import ConfigError

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
