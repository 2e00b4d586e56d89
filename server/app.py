"""The ServerApp: builds or resumes the global model, runs the strategy, evaluates and stores every round."""

import logging
from collections.abc import Sequence

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from clients.settings import Training
from fedinverse.arrays import from_record, to_record
from fedinverse.errors import StageError
from fedinverse.flower import server_directory, world_of
from fedinverse.layout import is_control, is_run
from fedinverse.machine import device_on, keep_freed_memory
from fedinverse.messages import Instructions
from fedinverse.private import part_of
from fedinverse.rounds import AfterRound, Round
from fedinverse.run import Run, prepare
from fedinverse.split import holdings
from fedinverse.storage import into_module, to_weights
from fedinverse.tables import Table, find_config, read_table
from server.checkpoints import latest_round, save_round
from server.one_by_one import OneByOne
from server.roll_call import known_nodes, roll_call
from server.settings import Federation
from server.utility import utility
from strategies import AnsweredGrid, Ledger, SecureGrid, Selection, load_state_dict, make_strategy, state_dict

# Keys of `flwr run --run-config`, and the config keys they override.
_OVERRIDES = {
    "num-server-rounds": "federation.rounds",
    "fraction-train": "federation.fraction_train",
    "local-epochs": "training.epochs",
    "batch-size": "training.batch_size",
    "learning-rate": "training.lr",
}


def server_app(after_round: Sequence[AfterRound] | None = None, *, beside: bool = False) -> ServerApp:
    """Return a ServerApp that hands every round to the callbacks ``after_round``, in order; None: it is stored.

    With ``beside``, a round is evaluated and handed on while the next one is trained, by a thread of its own that
    begins when a core is idle; another one writes the ledger.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        rounds: OneByOne[MetricRecord] = OneByOne(beside=beside)
        lines: OneByOne[None] = OneByOne(beside=beside)
        with lines, rounds:
            _federate(grid, context, (save_round,) if after_round is None else after_round, rounds, lines)

    return app


app = server_app()  # as Flower finds it


def _federate(
    grid: Grid,
    context: Context,
    callbacks: Sequence[AfterRound],
    hand_on: OneByOne[MetricRecord],
    lines: OneByOne[None],
) -> None:
    """Run the rounds that are still to run.

    Args:
        hand_on: evaluates rounds and hands them to ``callbacks``.
        lines: writes the ledger.
    """
    keep_freed_memory()  # every round frees what all its clients sent
    grid = AnsweredGrid(grid)
    run, world = _open(context, grid), world_of(context)
    federation, training = run.section("federation", Federation), run.section("training", Training)
    device_on(federation.device, "federation.device")
    classes = len(run.class_names)
    network = run.initial_network(world)
    held_out = part_of(run, "reserve")

    stored = latest_round(run, world)
    done, weights, state = stored if stored is not None else (-1, to_weights(network), {})
    into_module(network, weights, f"the checkpoint of round {done}")
    weights = to_weights(network)  # in the network's order, which a file does not keep
    if done >= federation.rounds:
        return

    strategy = make_strategy(federation, run.population.clients, run.seed_of(world), str(run.files.config))
    ledger = Ledger(run.files.server.ledger(world), lines)

    def after_round(strategy_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Evaluate the model and hand the round on; Flower calls this with 0 before the first round."""
        server_round = strategy_round + max(done, 0)
        if server_round <= done:  # resumed: this model is stored already
            return None
        received = from_record(arrays)
        state = state_dict(strategy)  # the next round changes it

        def finish() -> MetricRecord:
            into_module(network, received, f"the global model of round {server_round}")
            scores = utility(network, held_out, run.victim_classes, federation.device)
            over = Round(run, world, server_round, received, ledger.sha256(arrays), scores, state)
            for callback in callbacks:
                callback(over)
            known = {key: scores[key] for key in ("accuracy", "victim-accuracy") if scores[key] is not None}
            return MetricRecord(known)

        return hand_on(finish)

    partitions = roll_call(grid, run.population.clients, federation.timeout, known_nodes(run.path))
    leaves = run.population.shares_classes and is_control(world)
    absent = frozenset({run.population.victim} if leaves else ())
    selection = Selection(federation, run.seed_of(world), partitions, absent)
    buffers = [name for name, _ in network.named_buffers()]
    examples = dict(enumerate(_held(run).tolist()))
    if not federation.secure_aggregation.enabled:  # its replies show no update
        grid.as_they_arrive(strategy.read_early)
    hand_on.waits = grid.when_idle(hand_on.begin)
    strategy.begin(selection, ledger, max(done, 0), buffers, examples)
    load_state_dict(strategy, state)
    message = Instructions.record(run.model.name, run.model.width, classes, training.model_dump())
    strategy.start(
        grid=_secured(grid, run, federation),
        initial_arrays=to_record(weights),
        num_rounds=federation.rounds - max(done, 0),
        timeout=federation.timeout,
        train_config=message,
        evaluate_config=ConfigRecord(dict(message)),
        evaluate_fn=after_round,
    )


def _open(context: Context, grid: Grid) -> Run:
    """Return the run; a plain ``flwr run .`` names none, so its config is read and prepared here.

    Its population is then as many nodes as are connected: how many Flower simulates is not the config's to say.
    """
    path = server_directory(context)
    if is_run(path) and not context.run_config.get("config"):
        return Run(path)
    name = context.run_config.get("config")
    if not name:
        raise StageError(f"{path} is not a run directory; start with fedinverse_sim.py, or 'flwr run .' with a config")
    table: Table = read_table(find_config(str(name)))
    for key, place in _OVERRIDES.items():
        if key in context.run_config:
            section, field = place.split(".")
            table.setdefault(section, {})[field] = context.run_config[key]
    logging.getLogger("flwr").info("Run directory: %s", path)  # for 'fedinverse invert', 'audit' and 'report'
    table.setdefault("population", {})["clients"] = len(list(grid.get_node_ids()))
    return prepare(path, table)


def _secured(grid: Grid, run: Run, federation: Federation) -> Grid:
    """Return the grid that the strategy sees: with secure aggregation, one that shows averages only."""
    if not federation.secure_aggregation.enabled:
        return grid
    largest = int(_held(run).max())
    return SecureGrid(grid, federation.secure_aggregation, weighted=federation.averaging == "weighted", largest=largest)


def _held(run: Run) -> NDArray[np.int64]:
    """Return how many images the split gives each partition, int64 [clients]."""
    held: NDArray[np.int64] = holdings(run.split, run.population.clients, len(run.class_names)).sum(1)
    return held
