"""The whole configuration: every role's section, checked alone and against each other before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from attacker.attacks.registry import make_attack
from attacker.settings import Attacker, Updates
from auditor.arms import TYPE_I
from auditor.settings import Audit
from clients.cohorts import Cohort, assign
from clients.cohorts import check as check_defences
from clients.participant import Participant, make_participant
from clients.settings import Training
from fedinverse.canaries import Canaries
from fedinverse.class_lists import names_apart
from fedinverse.config import Data, FileName, Model, PlaceText, Population, Section, Split, parse
from fedinverse.data import source_of
from fedinverse.disk import Storage
from fedinverse.errors import ConfigError
from fedinverse.layout import PASSIVE, WITH_VICTIM, World, control_worlds
from fedinverse.models import build, same_network, spec_of, why_not
from fedinverse.run import Run
from fedinverse.shard import Shard
from fedinverse.tables import Table, find_config, read_table
from pipeline.engines import Engine
from pipeline.stages.membership_scores import Membership
from pipeline.stages.membership_scores import check as check_membership
from pipeline.stages.updates import seat_of
from pipeline.tracking import Tracking, check_installed
from server.settings import Federation
from strategies import make_strategy


class Experiment(Section):
    """A configuration file."""

    name: FileName = Field(description="names the run directory")
    seed: int = Field(0, ge=0, lt=2**31, description="every random number of the run derives from it")
    out: PlaceText = Field("runs", description="directory of run directories")
    data: Data = Data()
    split: Split = Split()
    population: Population = Population()
    model: Model = Model()
    training: Training = Training()
    federation: Federation = Federation()
    engine: Engine = Engine()
    cohorts: tuple[Cohort, ...] = ()
    attacker: Attacker = Attacker()
    attacks: dict[FileName, dict[str, Any]] = Field(
        default_factory=dict, description="attacks by a label of your choice"
    )
    audit: Audit = Audit()
    active: dict[str, Any] | None = Field(
        None,
        description="what the malicious clients do beside training honestly: kind 'gan' or 'ascent', and its settings; "
        "absent: nothing. Outside a simulation only a node's own operator turns it on",
    )
    membership: Membership | None = Field(
        None, description="ask whether a record was used for training; absent: not asked"
    )
    canaries: Canaries | None = Field(
        None,
        description="plant records with random labels at the victim, to measure what epsilon is at least; absent: none",
    )
    updates: Updates | None = Field(None, description="ask what was in somebody's last batches; absent: not asked")
    storage: Storage = Storage()
    tracking: Tracking = Tracking()

    @property
    def asks(self) -> bool:
        """Whether anything is asked that is held against a federation without the victim."""
        return bool(self.attacks) or any(each is not None for each in (self.membership, self.updates, self.active))

    @model_validator(mode="after")
    def _somebody_is_sampled(self) -> "Experiment":
        clients, fraction = self.population.clients, self.federation.fraction_train
        if round(clients * fraction) < 1:
            raise ValueError(
                f"federation.fraction_train {fraction:g} of {clients} clients samples nobody; "
                f"make it at least {1 / clients:g}"
            )
        beyond = [client for client in self.federation.always_train if client >= clients]
        if beyond:
            raise ValueError(f"federation.always_train names {beyond}, but clients run from 0 to {clients - 1}")
        alike = [
            label for label in self.attacks if [each.casefold() for each in self.attacks].count(label.casefold()) > 1
        ]
        if alike:
            raise ValueError(f"attacks {', '.join(alike)} differ in case alone, and become one file on some systems")
        if self.attacks and not self.population.malicious:
            raise ValueError("attacks are configured but population.malicious is 0; make it 1 or remove the attacks")
        for section in ("membership", "updates", "active"):
            if getattr(self, section) is not None and not self.population.malicious:
                raise ValueError(f"[{section}] needs an attacker: set population.malicious, or remove the section")
        return self


def worlds_of(experiment: Experiment) -> tuple[World, ...]:
    """Return the federations that the experiment runs, the one with the victim first."""
    wanted = experiment.audit.control_worlds if experiment.audit.without_victim and experiment.asks else 0
    return WITH_VICTIM, *((PASSIVE,) if experiment.active is not None else ()), *control_worlds(wanted)


def most_rounds(chosen: str | tuple[int, ...], experiment: Experiment) -> int:
    """Return of how many rounds the models are inverted, at most, where ``chosen`` says of which."""
    return len(chosen) if isinstance(chosen, tuple) else 1 if chosen == "last" else experiment.federation.rounds


def load_experiment(name: str, assignments: list[str], out: Path | None = None) -> Experiment:
    """Read, override, check.

    Raises:
        ConfigError: names file, key and fix.
    """
    path = find_config(name)
    table: Table = read_table(path, assignments)
    if out is not None:
        table["out"] = str(out)
    if "sweep" in table:
        raise ConfigError(f"{path}: holds a table [sweep], many experiments; run them with 'fedinverse sweep {name}'")
    return checked(table, str(path))


def checked(table: Table, origin: str) -> Experiment:
    """Return the configuration that ``table`` holds, checked; ``origin`` is the file, for messages.

    Raises:
        ConfigError: names file, key and fix.
    """
    experiment = parse(Experiment, names_apart(table), "", origin)
    check(experiment, origin)
    return experiment


def check(experiment: Experiment, origin: str) -> None:
    """Check names and combinations that only the rooms themselves know."""
    _located(source_of, experiment.data.private, f"{origin}: 'data.private'")
    _located(source_of, experiment.data.public, f"{origin}: 'data.public'")
    _located(spec_of, experiment.model.name, f"{origin}: 'model.name'")
    _check_images(experiment, origin)
    if TYPE_I in experiment.attacks:
        raise ConfigError(f"{origin}: 'attacks.{TYPE_I}': that label is the auditor's own (arm T1); choose another one")
    for label, table in experiment.attacks.items():
        make_attack(table, f"attacks.{label}", origin)
    population = experiment.population
    make_strategy(experiment.federation, population.clients, experiment.seed, origin)
    defences = assign(experiment.cohorts, population.clients, experiment.seed, population.attackers, origin)
    if experiment.cohorts:
        check_defences(defences, build(experiment.model.name, 2, experiment.model.width, seed=0), origin)
    check_installed(experiment.tracking, origin)
    _check_schedule(experiment, origin)
    if experiment.updates is not None:
        check_updates(experiment, origin)
    if experiment.membership is not None:
        check_membership(experiment.membership, origin)
        _check_rounds("membership.rounds", experiment.membership.rounds, experiment.federation.rounds, origin)
    if experiment.active is not None:
        _participant(experiment.active, origin)
    _located(spec_of, experiment.audit.evaluator.model, f"{origin}: 'audit.evaluator.model'")
    if same_network(experiment.audit.evaluator.model, experiment.model.name):
        raise ConfigError(
            f"{origin}: 'audit.evaluator.model' is '{experiment.audit.evaluator.model}', the target's own "
            "architecture: it would share its mistakes; choose another one"
        )


def check_updates(experiment: Experiment, origin: str) -> None:
    """Refuse updates that will not be had, or are no mean gradients."""
    updates = experiment.updates
    assert updates is not None
    if isinstance(updates.rounds, tuple):
        _check_rounds("updates.rounds", updates.rounds, experiment.federation.rounds, origin, first=1)
    training = experiment.training
    nobody = Shard.empty()
    seat_of(nobody, updates, training.model_dump(mode="json"), 1, 2, 0, origin)


def _check_rounds(key: str, asked: tuple[int, ...], rounds: int, origin: str, first: int = 0) -> None:
    """Refuse rounds that will not be; round 0 is the model before training."""
    if not all(first <= number <= rounds for number in asked):
        raise ConfigError(f"{origin}: '{key}' is {list(asked)}, but rounds run from {first} to {rounds}")


def _participant(table: dict[str, Any], origin: str) -> Participant:
    """Return the active participant that ``table`` describes; ``ConfigError`` if there is none such."""
    settings = {key: value for key, value in table.items() if key != "kind"}
    return make_participant(str(table.get("kind", "")), settings, 0, Path(), "cpu", origin)


def _check_images(experiment: Experiment, origin: str) -> None:
    """Refuse a network that cannot train on its images, or not on batches of one: one forward pass tells."""
    model, batch = experiment.model, experiment.training.batch_size
    reason = why_not(model.name, model.width, 2)
    if reason:
        shape = spec_of(model.name).input_shape
        raise ConfigError(f"{origin}: model '{model.name}' cannot take images {shape}: {reason}")
    reason = why_not(model.name, model.width, 1) if batch == 1 else ""
    if reason:
        raise ConfigError(
            f"{origin}: 'training.batch_size' is 1, and model '{model.name}' cannot train on one image ({reason}); "
            "make it 2 or more, or choose a model without BatchNorm, such as mcnn_gn"
        )


def _check_schedule(experiment: Experiment, origin: str) -> None:
    """Refuse rounds that will not be, and a primary attack or round that will not be had."""
    rounds, chosen, primary = experiment.federation.rounds, experiment.attacker.rounds, experiment.audit.primary
    if not experiment.attacks:
        return
    beyond = [number for number in chosen if number > rounds] if isinstance(chosen, tuple) else []
    if beyond:
        raise ConfigError(
            f"{origin}: 'attacker.rounds' asks for {beyond}, but federation.rounds is {rounds}; lower the one or raise "
            "the other"
        )
    labels = ", ".join(experiment.attacks)
    if not primary.attack and len(experiment.attacks) > 1:
        raise ConfigError(
            f"{origin}: 'audit.primary.attack' must name one of {labels}: the choice is made before the run"
        )
    if primary.attack and primary.attack not in experiment.attacks:
        raise ConfigError(f"{origin}: 'audit.primary.attack' is '{primary.attack}'; the attacks are {labels}")
    nth = experiment.attacker.every_nth
    had = chosen if isinstance(chosen, tuple) else {"last": (rounds,)}.get(chosen, range(1, rounds + 1))
    skipped = chosen == "every" and primary.round % nth and primary.round != rounds
    if primary.round != -1 and (primary.round not in had or skipped):
        raise ConfigError(
            f"{origin}: 'audit.primary.round' is {primary.round}, which 'attacker.rounds' does not have inverted; "
            "choose one that is, or -1 for the last"
        )


def _located(look_up: Callable[[str], Any], name: str, where: str) -> None:
    try:
        look_up(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def resolved(experiment: Experiment) -> Table:
    """Return the complete table that goes into the run directory: every default written out, no machine's choice."""
    table = experiment.model_dump(mode="json")
    table["attacks"] = {
        label: {
            "kind": attack["kind"],
            **make_attack(attack, f"attacks.{label}", "config").settings.model_dump(mode="json"),
        }
        for label, attack in experiment.attacks.items()
    }
    if experiment.active is not None:
        settings = _participant(experiment.active, "config").settings.model_dump(mode="json")
        table["active"] = {"kind": experiment.active["kind"], **settings}
    for key in ("out", "engine", "storage", "tracking"):  # where and on what it runs changes no result
        del table[key]
    return table


def check_stored(run: Run) -> None:
    """Refuse a run directory whose ``config.json`` holds what no configuration does; ``ConfigError`` names the key."""
    sections = {key: value for key, value in run.table.items() if key in Experiment.model_fields}
    parse(Experiment, sections, "", str(run.files.config))


def completed(stored: Table) -> Table:
    """Return what ``resolved`` once gave, with the defaults of keys that it did not know then.

    What is no configuration of this version is returned as it is: it differs from every other.
    """
    try:
        return resolved(parse(Experiment, stored, "", "config"))
    except ConfigError:
        return stored
