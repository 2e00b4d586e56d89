"""``deploy local``: the federation of a run directory as real processes on this machine, over TLS with known nodes.

The server knows its run directory from the run config. A node knows what its operator's node config says: its
partition, its own data directory, and the malicious one its role and spool; nothing the server sends names it.
"""

import logging
import time
from contextlib import nullcontext
from pathlib import Path

from fedinverse.errors import StageError
from fedinverse.layout import receipts_of
from fedinverse.lock import only_here
from fedinverse.records import LedgerLine, Receipt, read_lines
from fedinverse.run import Run, check_fresh
from fedinverse.storage import load_weights, write_json
from pipeline.deploy.control import Control
from pipeline.deploy.fleet import Fleet
from pipeline.deploy.network import Network, private_network
from pipeline.deploy.parties import WORLD, export_shards, node_configs, private_directory, server_run, spool_of
from pipeline.deploy.processes import Processes
from pipeline.experiment import Experiment, worlds_of
from pipeline.profile import Stages
from pipeline.stages.active import lay_out
from pipeline.stages.all_stages import NAME, directory_of, ready, stages_in
from pipeline.stages.federate import is_federated
from pipeline.stages.invert import Meanwhile
from report.console import console, say
from report.text import counted, of_round
from server.settings import Federation

log = logging.getLogger("fedinverse.deploy")

_START = 120.0  # seconds until the first round is recorded, beside the rounds' own time
_ASK, _ASK_AT_THE_END = 15.0, 1.0  # seconds between two questions to the SuperLink: each costs a fresh process


def deploy_local(experiment: Experiment, *, resume: bool) -> Path:
    """Run the federation of ``experiment`` as real processes, then every later stage as in a simulation.

    The control world without the victim's images, if the audit wants it, is simulated on the configured engine: it is
    the same training, and nobody can run a real federation a second time without one of its members.

    Returns:
        The report.

    Raises:
        ConfigError: the run directory exists and ``resume`` was not asked for.
        FedInverseError: see ``federate_deployed`` and the stages.
    """
    path = directory_of(experiment)
    with only_here(path):  # a second fleet beside one that still federates would record its rounds twice
        check_fresh(path, NAME, resume=resume)
        run = ready(experiment, path)
        if experiment.active is not None:
            lay_out(run, worlds_of(experiment))
        left = not is_federated(run, WORLD)
        timed = Stages(path, profile=False).stage("federate") if left else nullcontext()
        with timed, Meanwhile(run) if experiment.attacks and left else nullcontext():
            compared = federate_deployed(run)
        if compared:
            say("Captures", f"{counted(compared, 'message')} to the malicious node, all equal to the server's ledger")
        return stages_in(path, experiment)  # the federation it finds done


def federate_deployed(run: Run) -> int:
    """Bring the federation of ``run`` to its last round over real processes; leave none behind.

    A run that was stopped goes on after its last recorded round.

    Returns:
        How many captured messages were held against the server's ledger; 0 without a malicious client.

    Raises:
        ConfigError: a node's setting holds what Flower cannot carry.
        StageError: a process ended or a wait ran out (the message names the log), or captures differ from the ledger.
    """
    nodes = node_configs(run)
    if run.last_round(WORLD) < run.section("federation", Federation).rounds:
        export_shards(run, nodes)
        with private_network() as network, Processes() as processes:
            _federate(run, nodes, processes, network)
    return sum(check_captures(run, attacker) for attacker in run.population.attackers)


def _federate(run: Run, nodes: list[dict[str, str | int]], processes: Processes, network: Network) -> None:
    federation, directory = run.section("federation", Federation), private_directory(run)
    fleet = Fleet.on_loopback(directory, len(nodes), network=network)
    if network.reason:
        log.warning(
            "no network of its own for this deployment (%s): other users of this machine can reach its ports, run code "
            "through one and take models from the others; trust them, or use another machine",
            network.reason,
        )
    say("Deploying", f"SuperLink on {fleet.fleet} and {counted(len(nodes), 'SuperNode')}; logs in {directory}")
    fleet.start_superlink(processes)
    control = fleet.connect(register=range(len(nodes)))
    for number, node in enumerate(nodes):
        fleet.start_node(processes, number, node)
    server = _server_beside(run)
    write_json(server.files.nodes, control.nodes)
    run_id = control.submit(server.path)
    patience = _START + federation.timeout * (federation.rounds - max(run.last_round(WORLD), 0) + 1)
    watch = Watch(run, control, run_id)
    processes.wait_until(f"run {run_id} finishes", watch.finished, patience, pause=0.5)
    done = run.last_round(WORLD)
    if watch.status != "finished:completed" or done < federation.rounds:
        raise StageError(
            f"run {run_id} is {watch.status} after round {done} of {federation.rounds}; see "
            f"{control.fetch_log(run_id)} and {directory}/node-*/supernode.log"
        )


def _server_beside(run: Run) -> Run:
    """Return the server's run directory, whose ledger and checkpoints lie in ``run`` itself: one machine is all hosts.

    On a host of its own the server makes that directory, and the auditor fetches it.
    """
    server = server_run(run)
    written = server.path / "federation"
    if not written.is_symlink():
        (run.path / "federation").mkdir(exist_ok=True)
        written.symlink_to(Path("..") / ".." / "federation", target_is_directory=True)
    return server


def check_captures(run: Run, attacker: int) -> int:
    """Hold what the malicious node ``attacker`` captured against what the server's ledger says it was sent.

    Returns:
        The number of messages compared, each by round, message type and SHA-256.

    Raises:
        StageError: a message is in one of the two only.
        IntegrityError: a captured file does not hold what its hash says.
    """
    spool = spool_of(run, attacker)
    sent = {_key(line) for line in read_lines(LedgerLine, run.files.server.ledger(WORLD)) if line.partition == attacker}
    receipts = read_lines(Receipt, receipts_of(spool))
    received = {_key(line) for line in receipts}
    if sent != received:
        raise StageError(
            f"the captures in {spool} are not what the ledger says: {len(sent - received)} messages to client "
            f"{attacker} were not captured, {len(received - sent)} captured ones were not sent"
        )
    files = {line.file: line.sha256 for line in receipts}
    for name, sha in files.items():
        if load_weights(spool / name)[1]["sha256"] != sha:
            raise StageError(f"{spool / name} is not the capture that its receipt names")
    return len(sent)


def _key(line: LedgerLine | Receipt) -> tuple[int, str, str]:
    return line.round, line.message_type, line.sha256


class Watch:
    """Shows rounds as the server records them and asks the SuperLink now and then whether the run is over."""

    def __init__(self, run: Run, control: Control, run_id: str) -> None:
        self._run, self._control, self._run_id = run, control, run_id
        self._shown, self._asked = run.last_round(WORLD), time.monotonic()
        self._rounds = run.section("federation", Federation).rounds
        self.status = "submitted"

    def finished(self) -> bool:
        """Return whether the run is over; ``status`` then says how."""
        self._show()
        if time.monotonic() - self._asked >= (_ASK if self._shown < self._rounds else _ASK_AT_THE_END):
            self.status = self._control.status(self._run_id)
            self._asked = time.monotonic()
        if not self.status.startswith("finished"):
            return False
        self._show()
        return True

    def _show(self) -> None:
        for line in self._run.recorded_rounds(WORLD):
            if line.round > self._shown:
                self._shown = line.round
                console.print(of_round(line.round, line.accuracy, line.victim_accuracy))
