"""The ``[engine]`` section of the configuration."""

from typing import Literal

from pydantic import Field

from fedinverse.config import Section

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
