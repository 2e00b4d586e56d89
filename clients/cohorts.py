"""Cohorts: which client trains with which defence.

A config lists cohorts; each names a defence, its settings and either the partition ids of its clients or a
fraction of them, drawn with the run's seed. Clients in no cohort train without a defence.
"""

from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field, model_validator

from clients.defences import defence_class
from fedinverse.config import Section, parse
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier
from fedinverse.run import Run
from fedinverse.seeds import numpy_generator

UNDEFENDED: tuple[str, dict[str, Any]] = ("none", {})


class Cohort(Section):
    """Clients who train with the same defence."""

    defence: str = Field(description="defence: see 'fedinverse defences'")
    fraction: float | None = Field(
        None, gt=0, le=1, description="share of the clients who may be defended, drawn with the run's seed"
    )
    clients: tuple[int, ...] | None = Field(None, min_length=1, description="or the partition ids themselves")
    settings: dict[str, Any] = Field(default_factory=dict, description="the defence's own keys")

    @model_validator(mode="after")
    def _one_way(self) -> "Cohort":
        if (self.fraction is None) == (self.clients is None):
            raise ValueError("give either fraction or clients, one of the two")
        return self


def assign(
    cohorts: Sequence[Cohort], clients: int, seed: int, excluded: Collection[int] = (), origin: str = "config"
) -> dict[int, tuple[str, dict[str, Any]]]:
    """Give every client a defence.

    Args:
        seed: run seed; the draw does not depend on the settings of a defence.
        excluded: partition ids that no cohort may hold, such as the malicious clients; they train undefended.
        origin: the file, for messages.

    Returns:
        {partition id: (defence name, complete settings)} of every client. Fractions are of the clients not
        excluded, rounded so that cohorts whose fractions add up to 1 leave nobody out.

    Raises:
        ConfigError: unknown defence, bad settings, fractions above 1 in sum or beyond the clients left over
            by explicit lists, a client that does not exist, is excluded or is in two cohorts.
    """
    chosen = [_resolve(cohort, index, origin) for index, cohort in enumerate(cohorts)]
    holder: dict[int, int] = {}
    for index, cohort in enumerate(cohorts):
        for client in cohort.clients or ():
            _check_free(client, holder, clients, excluded, f"{origin}: 'cohorts.{index}.clients'")
            holder[client] = index

    eligible = [client for client in range(clients) if client not in excluded]
    pool = [client for client in eligible if client not in holder]
    numpy_generator(seed, "cohorts").shuffle(pool)
    share, taken = 0.0, 0
    for index, cohort in enumerate(cohorts):
        share += cohort.fraction or 0.0
        until = round(share * len(eligible))
        if share > 1 + 1e-9:
            raise ConfigError(f"{origin}: the fractions of the cohorts add up to {share:g}; make them at most 1")
        if until > len(pool):
            raise ConfigError(
                f"{origin}: the cohorts' fractions ask for {until} clients but only {len(pool)} are in no "
                f"explicit list; lower cohorts.{index}.fraction or shorten the lists"
            )
        holder.update(dict.fromkeys(pool[taken:until], index))
        taken = until
    return {client: chosen[holder[client]] if client in holder else UNDEFENDED for client in range(clients)}


def defences_of(run: Run) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return what ``assign`` gives the clients of ``run``."""
    origin = str(run.files.config)
    cohorts = [parse(Cohort, table, f"cohorts.{n}", origin) for n, table in enumerate(run.table.get("cohorts", []))]
    return assign(cohorts, run.population.clients, run.seed, run.population.attackers, origin)


def check(assignment: dict[int, tuple[str, dict[str, Any]]], model: Classifier, origin: str = "config") -> None:
    """Raise ``ConfigError`` if a defence of ``assignment`` cannot work with the global ``model``."""
    for name, table in {repr(entry): entry for entry in assignment.values()}.values():
        defence = defence_class(name)
        defence.check(parse(defence.Settings, table, f"defence {name}", origin), model)


def _resolve(cohort: Cohort, index: int, origin: str) -> tuple[str, dict[str, Any]]:
    settings = parse(defence_class(cohort.defence).Settings, cohort.settings, f"cohorts.{index}.settings", origin)
    return cohort.defence, settings.model_dump(mode="json")


def _check_free(client: int, holder: dict[int, int], clients: int, excluded: Collection[int], where: str) -> None:
    if not 0 <= client < clients:
        raise ConfigError(f"{where} names client {client}, but clients run from 0 to {clients - 1}")
    if client in excluded:
        raise ConfigError(f"{where} names client {client}, who is malicious and undefended; take it out")
    if client in holder:
        raise ConfigError(
            f"{where} names client {client}, already in cohort {holder[client]}; a client has one defence"
        )
