"""The ``[engine]`` section of the configuration."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fedinverse.config import Section
from fedinverse.errors import ConfigError

EngineName = Literal["ray", "local", "flower"]


class Engine(Section):
    """What runs the clients of a simulation."""

    kind: EngineName = Field("ray", description="ray: actors; local: in process; flower: Flower's own runtime")
    actors: int = Field(0, ge=0, description="ray: client processes, one thread each; 0: as many as fit")
    address: str = Field("", description="ray: host:port of a running cluster's head; empty: start one here")
    client_cpus: float = Field(1.0, gt=0, description="ray: CPUs of a client's actor")
    client_gpus: float = Field(
        0.0, ge=0, description="share of a GPU of a client, where it trains; local: any share is the whole GPU"
    )

    @property
    def device(self) -> str:
        """Where clients train: Ray shows a client the GPU that it was given, and no other, as the first one."""
        return "cuda" if self.client_gpus else "cpu"

    def fitting(self, have: Mapping[str, float]) -> int:
        """Return how many actors the resources ``have`` hold; an actor that has no place would never answer.

        Raises:
            ConfigError: fewer than ``actors``, or none.
        """
        fit = int(have.get("CPU", 0) / self.client_cpus + 1e-9)
        if self.client_gpus:
            gpus = have.get("GPU", 0)
            # Two shares of .6 have no place on one GPU, however many there are.
            fit = min(fit, int(gpus) * int(1 / self.client_gpus + 1e-9) or int(gpus / self.client_gpus + 1e-9))
        if fit < max(1, self.actors):
            raise ConfigError(
                f"engine: {max(1, self.actors)} actors ask for {self.client_cpus:g} CPUs and {self.client_gpus:g} "
                f"GPUs each, but Ray has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}; lower engine.actors, "
                "engine.client_cpus or engine.client_gpus"
            )
        return fit
