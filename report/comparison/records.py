"""One audited run, as a comparison needs it: its files are all that is read."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

from auditor.canaries import read_canaries
from auditor.metrics.names import WHOLE_SET
from auditor.omitted import Omitted
from auditor.settings import Audit, Primary
from auditor.table import read_scores
from auditor.verdict import VERSION, read_verdict
from fedinverse.errors import StageError
from fedinverse.records import ClientLine, RoundLine
from fedinverse.run import Run
from fedinverse.storage import read_json


@dataclass(frozen=True)
class Rank:
    """Which strength of which defence a sweep's point is.

    Attributes:
        defence: what the sweep calls the defence.
        strength: its place in the order of strengths, 0 the weakest.
        undefended: label of the points without the defence, which it is held against.
    """

    defence: str
    strength: int
    undefended: str


@dataclass(frozen=True)
class Record:
    """An audited run.

    Attributes:
        label: what a sweep calls the point; empty: it is no sweep's.
        rank: which strength of which defence it is; None: it is none of a search over strengths.
    """

    run: Run
    label: str = ""
    rank: Rank | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.run.path)

    @property
    def seed(self) -> int:
        """The run's seed, by which runs are paired."""
        return self.run.seed

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The tidy score table (``auditor.table``), of the victim's classes and of the whole set.

        Raises:
            StageError: the run was not audited.
        """
        path = self.run.files.auditor.scores
        if not path.exists():
            raise StageError(f"{self.name} holds no scores; run 'fedinverse audit {self.name}' first, or leave it out")
        scores = read_scores(path)
        return scores[scores["label"].isin([*self.run.victim_classes, WHOLE_SET])]

    @cached_property
    def primary(self) -> Primary:
        """The primary attack, round and metric that the run's verdict speaks of, both named.

        Raises:
            StageError: it has no verdict, or one of earlier rules.
            IntegrityError: the verdict is damaged, or of a version that this program does not know.
        """
        path = self.run.files.verdict
        if not path.exists():
            raise StageError(f"{self.name} holds no verdict; run 'fedinverse audit {self.name}' first, or leave it out")
        verdict = read_verdict(path)
        if verdict.rules != VERSION:
            raise StageError(
                f"{path} was decided by the rules of version {verdict.rules}, and so were the scores beside it; run "
                f"'fedinverse audit {self.name}' to have them made by those of version {VERSION}, or leave it out"
            )
        chosen = {key: getattr(verdict.primary, key) for key in ("attack", "round", "metric")}
        return self.run.section("audit", Audit).primary.model_copy(update=chosen)

    @cached_property
    def rounds(self) -> dict[int, RoundLine]:
        """Utility of the federation with the victim, by round."""
        return {line.round: line for line in self.run.recorded_rounds("with_victim")}

    @property
    def seconds_per_round(self) -> float | Omitted:
        """Wall seconds of the stage 'federate' per round, over both worlds and all resumes."""
        path = self.run.files.times
        seconds = read_json(path).get("federate") if path.exists() else None
        rounds = sum(max(len(self.run.recorded_rounds(world)) - 1, 0) for world in self.run.worlds)
        return seconds / rounds if seconds and rounds else Omitted("its time was not recorded")

    @property
    def bound(self) -> float | Omitted:
        """What the run's canaries show the victim's epsilon to be at least."""
        path = self.run.files.auditor.canaries
        return read_canaries(path).epsilon if path.exists() else Omitted("no canaries were planted")

    def epsilon(self, noise: Literal["own", "central"]) -> float | Omitted:
        """Return the largest epsilon that any client has spent in all its rounds, by the last line it reports it in.

        Args:
            noise: the clients' ``own`` noise, or the server's (``central``). The two do not add up.
        """
        key = "epsilon" if noise == "own" else "central_epsilon"
        lines = ClientLine.read_all(self.run.files.server.client_reports("with_victim"))
        spent = {line.partition: float(line.figures[key]) for line in lines if key in line.figures}
        return max(spent.values()) if spent else Omitted("no client's training has accounted noise of this kind")
