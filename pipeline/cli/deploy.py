"""``fedinverse deploy``: a federation of real processes. Every command also shows the plain Flower command it runs."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from fedinverse.layout import PLAN
from pipeline.cli.options import ConfigArgument, OutOption, SetOption
from pipeline.cli.program import Program

app = Program(
    name="deploy",
    help="Run the federation as real processes: a SuperLink and SuperNodes, TLS, registered nodes.",
)

ClientsOption = Annotated[int | None, typer.Option("--clients", min=2, help="number of nodes (population.clients)")]
KEYS_HELP = """
**By hand**  openssl makes ca.pem and server.pem; a node's key pair is

  ssh-keygen -t ecdsa -b 384 -N "" -f KEYS/node-00.key

and every public key is registered once, when the SuperLink runs:

  flwr supernode register KEYS/node-00.pub deployment
"""
SUPERLINK_HELP = """
**Plain Flower**

  flower-superlink --ssl-ca-certfile KEYS/ca.pem \\
  --ssl-certfile KEYS/server.pem --ssl-keyfile KEYS/server.key \\
  --enable-supernode-auth --isolation subprocess \\
  --host HOST --port PORT --fleet-api-address HOST:PORT
"""
SUPERNODE_HELP = """
**Plain Flower**

  flower-supernode --superlink HOST:PORT --root-certificates KEYS/ca.pem \\
  --auth-supernode-private-key KEYS/node-00.key \\
  --isolation subprocess --host 127.0.0.1 --port PORT \\
  --node-config 'partition-id=0 data-path="/data"'
"""
ATTACKER_HELP = """
**By hand**  the command writes plan.json beside the spool and becomes

  python -m attacker.worker plan.json --watch

With a file plan.stop beside plan.json it does what is scheduled, then ends.
"""
PREPARE_HELP = """
**Plain Flower**  each SuperNode gets a printed line as --node-config, then

  flwr run . deployment --run-config 'config="" run-dir="/absolute/run/dir"'
"""
LOCAL_HELP = """
**Plain Flower**  the commands above for every process, then

  flwr run . deployment --run-config 'config="" run-dir="/absolute/run/dir"'

  flwr list deployment
"""


@app.command(epilog=KEYS_HELP)
def keys(
    directory: Annotated[Path, typer.Argument(help="where the keys lie; those that are there are kept")],
    nodes: Annotated[int, typer.Option("--nodes", min=0, help="number of SuperNode key pairs")],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="name or address of the SuperLink beside the loopback ones; may be repeated"),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="how long the certificates are valid")] = 365,
) -> None:
    """Make the authority, the SuperLink's certificate and one key pair per SuperNode."""
    from pipeline.deploy.keys import make_keys
    from report.console import echo

    paths = make_keys(directory, nodes, host or (), days)
    echo(
        f"{paths.root}: ca.pem goes to every node, server.pem and server.key to the SuperLink, each node-XX.key "
        "to its node alone; ca.key stays with you"
    )


@app.command(epilog=SUPERLINK_HELP)
def superlink(
    directory: Annotated[Path, typer.Argument(help="the keys, from 'fedinverse deploy keys'", metavar="KEYS")],
    fleet: Annotated[
        str, typer.Option("--fleet", metavar="HOST:PORT", help="where SuperNodes connect (gRPC over TLS)")
    ] = "0.0.0.0:9092",
    control: Annotated[
        str,
        typer.Option(
            "--control",
            metavar="HOST:PORT",
            help="where 'flwr run' connects; who reaches it can run code on server and nodes: keep it private",
        ),
    ] = "127.0.0.1:8000",
    database: Annotated[
        Path | None, typer.Option("--database", help="keeps nodes and runs over a restart; default: in memory")
    ] = None,
) -> None:
    """Start a SuperLink in the foreground; only registered SuperNodes may connect."""
    from pipeline.deploy import commands
    from pipeline.deploy.keys import Keys

    _become(commands.superlink(Keys(directory.resolve()), fleet, control, database))


@app.command(epilog=SUPERNODE_HELP)
def supernode(
    link: Annotated[str, typer.Argument(help="the SuperLink's fleet address", metavar="HOST:PORT")],
    partition: Annotated[int, typer.Option("--partition", min=0, help="this node's partition id, its own alone")],
    data: Annotated[Path, typer.Option("--data", help="directory of images.npy and labels.npy")],
    authority: Annotated[Path, typer.Option("--ca", help="ca.pem, by which the SuperLink is verified")],
    key: Annotated[Path, typer.Option("--key", help="this node's private key, registered with the SuperLink")],
    defence: Annotated[str, typer.Option("--defence", help="see 'fedinverse names'")] = "none",
    defence_set: Annotated[
        list[str] | None,
        typer.Option("--defence-set", metavar="KEY=VALUE", help="override a setting of the defence; may be repeated"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="where it trains: cpu, cuda, cuda:1")] = "cpu",
    spool: Annotated[
        Path | None, typer.Option("--spool", help="makes this node malicious: where it keeps every model it is sent")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="of its random numbers; without one it draws its own")
    ] = None,
    port: Annotated[int, typer.Option("--port", help="loopback port of its own ClientApp processes")] = 9094,
) -> None:
    """Start a SuperNode in the foreground, honest or malicious: its own operator decides, and nobody else."""
    from clients.node import DEFENCE_SETTINGS
    from fedinverse.tables import assigned
    from pipeline.deploy import commands
    from pipeline.deploy.keys import node_secret

    settings = assigned({}, defence_set or ())
    node: dict[str, str | int | float] = {"partition-id": partition, "data-path": str(data.resolve())}
    node |= {"defence": defence, "device": device}
    node |= {} if seed is None else {"seed": seed}
    node |= {f"{DEFENCE_SETTINGS}{key}": value for key, value in settings.items()}
    if spool is not None:
        node |= {"role": "malicious", "spool": str(spool.resolve())}
    secret = node_secret(key.resolve())
    command = commands.supernode(authority.resolve(), key.resolve(), link, port, node, secret)
    helper = commands.superexec(port, secret, os.getpid())
    typer.echo(shlex.join(helper), err=True)
    subprocess.Popen(commands.program(helper), env=commands.environment(), stdin=subprocess.DEVNULL)
    _become(command)


@app.command(epilog=ATTACKER_HELP)
def attacker(
    config: Annotated[
        str, typer.Argument(help="the operator's own TOML file: attacks, attacker, public data, seed")
    ] = "",
    spool: Annotated[Path, typer.Option("--spool", help="where the SuperNode keeps every model it is sent")] = Path(
        "spool"
    ),
    data: Annotated[Path | None, typer.Option("--data", help="the node's own images.npy and labels.npy")] = None,
    classes: Annotated[int, typer.Option("--classes", min=0, help="number of classes of the federation's model")] = 0,
    their_app: Annotated[
        Path | None,
        typer.Option(
            "--app", metavar="DIR", help="beside a SuperNode of another Flower app: directory of its audit.toml"
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Invert what a malicious SuperNode captures, as it comes: a daemon beside it, on attacker.device.

    Inversions go into the directory 'inversions' beside the spool. SIGTERM ends the daemon; started again it goes on.
    """
    from attacker.worker import Plan
    from fedinverse.errors import ConfigError
    from fedinverse.house import HOME
    from fedinverse.registry import search_path
    from pipeline.deploy.attacker import daemon, environment, plan_beside, plan_beside_app
    from pipeline.experiment import load_experiment

    spool = spool.resolve()
    path = spool.parent / PLAN
    if their_app is not None:
        plan = plan_beside_app(their_app, spool, data and data.resolve(), set_ or [])
        typer.echo("start the SuperNode with this in its environment; nothing else of it changes:", err=True)
        for name, value in environment(spool).items():
            typer.echo(f"export {name}={shlex.quote(value)}", err=True)
    elif config and data is not None and classes > 1:
        plan = plan_beside(load_experiment(config, set_ or []), spool, data.resolve(), classes)
    else:
        raise ConfigError("give CONFIG with --data and --classes, or --app for a SuperNode of another Flower app")
    plan.write(path)
    Plan.stop(path).unlink(missing_ok=True)
    command = daemon(path)
    typer.echo(shlex.join(command), err=True)
    handed_on = os.environ | {"PYTHONPATH": search_path()}
    os.chdir(HOME)
    os.execve(command[0], command, handed_on)


@app.command(epilog=PREPARE_HELP)
def prepare(
    config: ConfigArgument = "quickstart",
    clients: ClientsOption = None,
    set_: SetOption = None,
    out: OutOption = None,
) -> None:
    """Prepare a run directory and every node's data, for nodes on hosts of their own."""
    from fedinverse.run import prepare as make
    from pipeline.deploy import commands
    from pipeline.deploy.parties import export_shards, node_configs, server_run
    from pipeline.experiment import load_experiment, resolved
    from report.console import echo

    experiment = load_experiment(config, _assignments(set_, clients), out)
    run = make((Path(experiment.out) / experiment.name).resolve(), resolved(experiment))
    nodes = node_configs(run)
    export_shards(run, nodes)
    echo(f"the server's run directory: {server_run(run).path}")
    for node in nodes:
        echo(commands.settings(node))


@app.command(epilog=LOCAL_HELP)
def local(
    config: ConfigArgument = "quickstart",
    clients: ClientsOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue a run that was stopped or killed")] = False,
) -> None:
    """Deploy SuperLink and SuperNodes on this machine, federate, invert, audit, report; leave no process behind."""
    from pipeline.deploy.local import deploy_local
    from pipeline.experiment import load_experiment

    deploy_local(load_experiment(config, _assignments(set_, clients), out), resume=resume)


def _assignments(set_: list[str] | None, clients: int | None) -> list[str]:
    return [*(set_ or []), *([] if clients is None else [f"population.clients={clients}"])]


def _become(command: list[str]) -> None:
    """Show the plain command, then become it: it gets the terminal's signals, and nothing stands between."""
    from pipeline.deploy import commands

    typer.echo(shlex.join(command), err=True)
    program = commands.program(command)
    os.execve(program[0], program, commands.environment())
