"""The attacker's sections of the configuration: ``[attacker]`` and the named tables ``[attacks.NAME]``."""

from typing import Literal

from pydantic import Field

from fedinverse.config import Classes, Section


class Attacker(Section):
    """Which captures are inverted, for which classes, where."""

    rounds: Literal["every", "last", "new_best"] | tuple[int, ...] = Field(
        "last",
        description="every captured round, the last, those better than before on its own shard, or a list",
    )
    every_nth: int = Field(1, ge=1, description="with 'every': only rounds divisible by this, and the last")
    classes: Classes = Field(
        (),
        description='classes to reconstruct, as numbers, ranges "0-299" or names; '
        "empty: every class of which the attacker holds no image",
    )
    class_names: tuple[str, ...] = Field(
        (), description="classes to reconstruct by name; names in classes are moved here"
    )
    restarts: int = Field(10, ge=1, description="reconstructions per class")
    device: str = Field("cpu", description="where the worker inverts: cpu, cuda, cuda:1")
    when: Literal["after", "during", "auto"] = Field(
        "auto",
        description="invert after the federation, during it (captures as they come), "
        "or auto: during it on a device of its own, after it on the CPU that the clients use",
    )
    processes: int = Field(0, ge=0, description="worker processes; 0: one per core on a CPU, one on a GPU")
    threads: int = Field(1, ge=1, description="CPU threads of each; more than one only pays on an idle machine")

    @property
    def during(self) -> bool:
        """Whether captures are inverted while the federation runs."""
        return self.when == "during" or (self.when == "auto" and self.device != "cpu")

    @property
    def sharing(self) -> str:
        """What the worker takes from the clients of a simulation, said before it takes it."""
        if self.device != "cpu":
            return f"on {self.device}; it shares that device with every client that uses it too"
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"on this machine's CPU, which it shares with the clients, {threads}"
