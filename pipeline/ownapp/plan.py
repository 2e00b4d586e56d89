"""What the process that runs somebody's federation is told, and what it leaves behind."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedinverse.layout import WITH_VICTIM, World, is_control
from fedinverse.records import read_record
from fedinverse.run import Run
from fedinverse.storage import read_json, typed, write_json

DONE, FAILED, COMPLAINTS = "done.json", "failed.json", "complaints"
ROWS = "client-rows.json"
ALONE = "alone"  # is there once the federation is over and the attacker trains alone: nothing is captured then


@dataclass(frozen=True)
class Plan:
    """One world's federation.

    Attributes:
        app: directory of the app; ``serverapp`` and ``clientapp`` its components.
        run_config: what the app finds in ``context.run_config``.
        clients, attacker, victim: number of nodes, and partition ids.
        world: without the victim, their node is hidden unless ``rows`` take their classes out.
        hide_victim: whether that is so.
        directory: where ledger, checkpoints and outcome go.
        capture: the settings of the attacker's spool (``attacker.spool.Spool``).
        about: metadata of every checkpoint; ``names`` and ``record`` as for the spool.
        own_shard: where the model goes that the attacker trains alone, after the federation; empty: none.
        data: the data hook; ``rows``: by partition id, which rows of its training part the client gets; empty: all.
        engine: ``flower`` or ``local``; ``actors``: processes of the former.
        patience: seconds without a message after which a strategy counts as waiting for nodes that are not there.
    """

    app: str
    serverapp: str
    clientapp: str
    run_config: dict[str, Any]
    clients: int
    attacker: int
    victim: int
    world: World
    hide_victim: bool
    directory: str
    capture: str
    about: dict[str, str | int | float]
    names: tuple[str, ...]
    record: str
    own_shard: str
    data: str
    engine: str
    actors: int
    patience: float
    rows: dict[str, list[int]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the plan atomically."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Plan":
        """Read a plan; ``IntegrityError`` names the key that does not fit."""
        return typed(Plan, read_json(path), path)


@dataclass(frozen=True)
class Federated:
    """What a federation of somebody's app came to, in ``done.json``; written last.

    Attributes:
        rounds: rounds in which clients were asked to train.
        sent_to: clients who were sent a model.
        answered: clients who sent an update.
        failures: client -> what it raised.
        alone: file of the model that the attacker's client trained on its own shard, or why there is none; None: it was
            not asked for.
        records: array records of the messages that have none of the name in ``record``.
    """

    rounds: int
    sent_to: tuple[int, ...]
    answered: tuple[int, ...]
    failures: dict[str, str]
    alone: str | None
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """Why a federation of somebody's app ended without a result, in ``failed.json``.

    Attributes:
        kind: ``load``: the app could not be loaded; ``server``: its ServerApp raised; ``clients``: some could not be
            started; ``record``: several array records could be the model; ``stalled``: the strategy waits for nodes.
        text: their traceback, our message, or the names of the records.
        nodes: how many nodes a stalled strategy is shown.
        seconds: how long it sent nothing.
    """

    kind: Literal["unknown", "load", "server", "clients", "record", "stalled"]
    text: str = ""
    nodes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ClientRows:
    """Which rows of the data hook's training part every client gets, by partition id as text; empty: all."""

    with_victim: dict[str, list[int]]
    without_victim: dict[str, list[int]]

    def of(self, world: World) -> dict[str, list[int]]:
        """Return the rows in ``world``."""
        return self.without_victim if is_control(world) else self.with_victim


def their_own_shard_model(run: Run) -> Path | str:
    """Return the file of the model that their ClientApp trained on the attacker's shard alone; or why there is none."""
    path = run.files.auditor.own_shard_model("app")
    if path.exists():
        return path
    return str(read_record(Federated, run.files.server.federation(WITH_VICTIM) / DONE).alone)
