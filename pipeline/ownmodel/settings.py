"""What is said of a weights file to audit it, and the sections of a run that its audit has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from attacker.attacks.registry import make_attack
from attacker.settings import Attacker
from auditor.settings import Audit
from fedinverse.config import Data, Section, Split, is_file_name, parse
from fedinverse.errors import ConfigError
from fedinverse.models import same_network
from fedinverse.tables import Table, assigned
from fedinverse.words import plain
from pipeline.ownapp.settings import JUDGES

ORIGIN = "audit-model"
RESTARTS = 10


@dataclass(frozen=True)
class ModelAudit:
    """What the command line says, where each field is explained (``fedinverse audit-model --help``).

    ``settings`` are ``SECTION.KEY=VALUE``, of the sections attack, attacker, audit, data and split. What is empty or
    None is not said.
    """

    file: Path
    private: str
    public: str
    held_out: str = ""
    model: str = ""
    width: float | None = None
    kind: str = "gmi"
    classes: tuple[int, ...] = ()
    name: str = ""
    seed: int = 0
    device: str = "cpu"
    settings: tuple[str, ...] = ()

    @property
    def run_name(self) -> str:
        """What the run directory is called: ``name``, or as the file is.

        Raises:
            ConfigError: ``name`` would lie elsewhere, or pass for another name.
        """
        if self.name and not is_file_name(self.name):
            raise ConfigError(
                f"--name '{plain(self.name, 60)}' is no name of a file: use letters, digits and . - _ only"
            )
        return self.name or self.file.stem


class Sections(Section):
    """The sections of a run that the audit of one model has."""

    attack: dict[str, Any] = Field(description="as a table [attacks.LABEL] of a run")
    attacker: Attacker = Field(description="as the table [attacker] of a run")
    audit: dict[str, Any] = Field(description="as the table [audit] of a run")
    data: Data = Field(Data(), description="limits, fit and allow_overlap, as in [data] of a run")
    split: Split = Field(Split(), description="how private images are divided without images that are held out")


def sections(said: ModelAudit) -> Sections:
    """Return the sections, with the settings of the command line over them.

    Raises:
        ConfigError: an unknown section or key, or an impossible value; names it.
    """
    table: Table = {
        "attack": {"kind": said.kind},
        "attacker": {"restarts": RESTARTS, "classes": list(said.classes), "device": said.device},
        "audit": {"device": said.device},
    }
    return parse(Sections, assigned(table, said.settings), "", ORIGIN)


def attacks_of(chosen: Sections) -> Table:
    """Return the tables ``[attacks.LABEL]`` of the run: the one attack, complete."""
    attack = make_attack(chosen.attack, "attack", ORIGIN)
    return {attack.name.replace(":", "-"): attack.table}


def audit_of(chosen: Sections, model: str, shape: tuple[int, int, int]) -> Audit:
    """Return ``[audit]``, with an evaluator of another architecture than ``model`` where none was named.

    Raises:
        ConfigError: no evaluator takes such images; says what to name.
    """
    table = dict(chosen.audit)
    evaluator = dict(table.get("evaluator") or {})
    if "model" not in evaluator:
        fitting = [name for name in JUDGES.get(shape, ()) if not same_network(name, model)]
        if not fitting:
            raise ConfigError(
                f"no evaluator is known for images {shape}, the input of '{model}'; name one with --set "
                "audit.evaluator.model=NAME, or declare the model with a canvas (docs/audit-your-app.md)"
            )
        evaluator["model"] = fitting[0]
    return parse(Audit, table | {"evaluator": evaluator, "without_victim": False}, "audit", ORIGIN)
