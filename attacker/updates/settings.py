"""The section ``[updates]`` of the configuration. Without it the question is not asked."""

from typing import Literal

from pydantic import Field

from fedinverse.config import Section


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
