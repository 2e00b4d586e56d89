"""The auditor's section of the configuration."""

from pydantic import Field

from auditor.evaluator import Evaluator
from fedinverse.config import Section


class Audit(Section):
    """How reconstructions are judged, and beside which controls."""

    evaluator: Evaluator = Field(Evaluator(), description="E1, the judge trained on the vault")
    gate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="below this accuracy on the victim classes a round says 'not learned yet'",
    )
    without_victim: bool = Field(
        True,
        description="also run the federation without the victim's images (world W0) and invert its model: "
        "whatever that scores is a false positive by construction",
    )
