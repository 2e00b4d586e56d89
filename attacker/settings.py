"""The attacker's sections of a configuration, ``[attacker]`` and ``[updates]``; ``[attacks.NAME]`` are the attacks'."""

from typing import Literal

from pydantic import Field

from fedinverse.class_lists import Classes
from fedinverse.config import Section


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


class Updates(Section):
    """Which pairs of consecutive captures are inverted, and how."""

    rounds: Literal["last", "every"] | tuple[int, ...] = Field(
        "last", description="rounds whose update is inverted: the last between two captures, every one, or a list"
    )
    images: int = Field(8, ge=1, le=1024, description="images reconstructed of each update, dealt to the labels found")
    steps: Literal["gradient", "simulate"] = Field(
        "gradient", description="what is matched to the update: one gradient, or the local steps unrolled"
    )
    iterations: int = Field(1000, ge=1, description="optimisation steps")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate on the pixels")
    tv: float = Field(1e-2, ge=0, description="weight of the total variation")
    signed: bool = Field(True, description="give Adam the signs of the gradient, as published")
    local_steps: int | None = Field(
        None, ge=1, description="steps tau of the others in a round; left out: as the attacker's own shard would take"
    )
    rate: float | None = Field(None, gt=0, description="their learning rate eta; left out: as they were told")
    momentum: float | None = Field(None, ge=0, lt=1, description="their momentum; left out: as they were told")
    share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="weight p of each own reply in the average; left out: 1 / C of the C clients of a round",
    )
    device: str = Field("cpu", description="where it is computed: cpu, cuda, cuda:1")
