"""The auditor's section of the configuration."""

from pydantic import Field

from auditor.evaluator import Evaluator
from auditor.verdict import Primary
from fedinverse.config import Section


class Audit(Section):
    """How reconstructions are judged, and beside which controls."""

    evaluator: Evaluator = Field(Evaluator(), description="E1, the judge trained on the vault")
    primary: Primary = Field(Primary(), description="what the verdict speaks of, fixed before the run")
    without_victim: bool = Field(
        True,
        description="also run the federation without the victim's images (world W0) and invert its models: "
        "whatever they score is a false positive by construction",
    )
