"""Every arm of the audit, in one table: what is judged (A), what it is held against (controls), what tests the judges.

An arm is the answer to one question of the form "and what would the evaluators say of ...?". Who wants to know what an
arm is, in which world its target lives or what the verdict may conclude from it reads this table; which target belongs
to which arm of a run stands in its ``targets.json`` (``auditor.targets``).
"""

from dataclasses import dataclass
from typing import Literal

Key = Literal["A", "B0", "B1", "B2", "B3", "B4", "B4W", "B5", "T1", "CEIL"]
Role = Literal["attack", "baseline", "beside", "instrument", "ceiling"]
"""What an arm may say in the verdict.

``attack``      its score is what the verdict speaks of.
``baseline``    the attack must lie above it, or its success has another explanation than the victim.
``beside``      qualifies a success and never makes or unmakes one alone.
``instrument``  scores what cannot be there: where it is high, the evaluators cannot be believed.
``ceiling``     real images: where it is low, the evaluators cannot see.
"""


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        key: as tables and files name it.
        name: as a reader meets it, in two or three words.
        meaning: one line.
        lacks_victim: whether its target comes from a world without the victim.
        per_round: whether it is scored at every attacked round; otherwise once for all of them.
        role: what it may say in the verdict.
    """

    key: Key
    name: str
    meaning: str
    lacks_victim: bool
    per_round: bool
    role: Role


TYPE_I = "type-i-test"
"""Label under which the images of arm T1 are made; an attack of a configuration that has it is refused."""

_TABLE: tuple[tuple[Key, str, str, bool, bool, Role], ...] = (
    # key, name, meaning, lacks the victim, per round, role in the verdict
    ("A", "attack", "the attack on the captured model", False, True, "attack"),
    ("B0", "prior only", "unoptimised samples of the attack's prior", False, True, "baseline"),
    ("B1", "untrained", "the attack on the untrained model (round 0)", False, False, "baseline"),
    ("B2", "no victim", "the attack on the model of a federation without the victim", True, True, "baseline"),
    ("B3", "own shard", "the attack on a model of the attacker's own shard", False, False, "baseline"),
    ("B4", "public image", "no attack: known images that the model is surest of", False, True, "baseline"),
    ("B4W", "public, no victim", "B4 chosen by the model without the victim", True, True, "beside"),
    ("B5", "wrong label", "the attack's images, judged as the next class", False, True, "instrument"),
    ("T1", "no prior", "images optimised against the model without a prior", False, False, "instrument"),
    ("CEIL", "real images", "real reserve images of the victim's classes", False, False, "ceiling"),
)
ARMS: dict[str, Arm] = {row[0]: Arm(*row) for row in _TABLE}


def keys(*roles: Role) -> tuple[str, ...]:
    """Return the keys of the arms with one of these ``roles``, all of them if none is named; in the table's order."""
    return tuple(key for key, arm in ARMS.items() if not roles or arm.role in roles)


CONTROLS: dict[str, str] = {key: ARMS[key].name for key in keys("baseline", "beside", "instrument")}
"""What an attack is held against, by the name it has in tables."""

ONCE: tuple[str, ...] = tuple(key for key, arm in ARMS.items() if not arm.per_round)
"""Arms that stand in the score table once, at whatever round, and hold for every round."""
