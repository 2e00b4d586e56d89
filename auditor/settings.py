"""The auditor's section of the configuration."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from auditor.metrics.names import METRICS
from fedinverse.config import Section
from fedinverse.errors import ConfigError


class Evaluator(Section):
    """Training of E1."""

    model: str = Field("scnn", description="network of the evaluator; never the target's")
    width: float = Field(1.0, gt=0, le=4, description="multiplies its widths")
    epochs: int = Field(30, ge=1, description="epochs on the vault images")
    batch_size: int = Field(64, ge=2, description="images per step")
    lr: float = Field(2e-3, gt=0, description="Adam's learning rate, annealed to zero by a cosine")
    second: str = Field(
        "", description="network of the second evaluator with the answer 'none of these'; empty: the auditor's own"
    )
    none_share: float = Field(
        0.5, gt=0, le=10, description="images that are none of the classes in an epoch, as a share of the vault"
    )


class Primary(Section):
    """What the verdict speaks of. Fixed before the run; changing it afterwards is choosing the answer."""

    attack: str = Field("", description="label of the primary attack; empty: the only one, or an error")
    round: int = Field(-1, ge=-1, description="primary round; -1: the last one captured")
    metric: str = Field(
        "attack-accuracy-open",
        description="primary score, a share; 'attack-accuracy': as published, by an evaluator that must choose",
    )
    gate: float = Field(
        0.5, ge=0, le=1, description="accuracy on the victim classes below which a round is 'not learned yet'"
    )
    ceiling: float = Field(
        0.5, ge=0, le=1, description="score of real reserve images below which the evaluator cannot judge"
    )
    resolution: float = Field(
        0.25,
        gt=0,
        le=1,
        description="smallest leakage that matters: less is no leak, and the run must be able to find it",
    )
    between_runs: float = Field(
        0.15,
        ge=0,
        le=1,
        description="standard deviation of a federation's mean score from one run to the next, assumed of a single run "
        "without further control worlds",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_bootstrap(cls, values: Any) -> Any:
        """Let go of ``draws``, which runs up to verdict version 1 wrote down: nothing is resampled any more."""
        return {key: value for key, value in values.items() if key != "draws"} if isinstance(values, dict) else values


class Audit(Section):
    """How reconstructions are judged, and beside which controls."""

    evaluator: Evaluator = Field(Evaluator(), description="E1, the judge trained on the vault")
    primary: Primary = Field(Primary(), description="what the verdict speaks of, fixed before the run")
    metrics: tuple[str, ...] = Field(
        (), description="further metrics: package.module:NAME, or what an installed package offers"
    )
    unaided_steps: int = Field(
        200,
        ge=0,
        description="steps of the Type-I test (arm T1): images optimised against the primary round's model without any "
        "prior, to see how many of them the evaluators accept; 0: leave it out",
    )
    control_worlds: int = Field(
        1,
        ge=1,
        le=100,
        description="federations without the victim, the further ones with other draws: how much of a success is luck "
        "of the run; 5 for tables that are to be published",
    )
    device: str = Field("cpu", description="where evaluators and the own-shard model compute: cpu, cuda, cuda:1")
    without_victim: bool = Field(
        True,
        description="also run the federation without the victim's images (world W0; without their client, where they "
        "share their classes) and invert its models: "
        "whatever they score is a false positive by construction",
    )

    @field_validator("metrics")
    @classmethod
    def _from_outside(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                metric = METRICS.get(name)
            except ConfigError as error:
                raise ValueError(str(error)) from None
            if metric.figures is None:
                raise ValueError(f"'{name}' is in every audit; list metrics of other packages only")
        return names
