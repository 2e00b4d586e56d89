"""Every command line of the deployment's documents is one that the programs take."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from pipeline.cli.main import app
from pipeline.deploy import commands

DOCS = Path(__file__).parent.parent / "docs"
COMPOSE = DOCS / "compose" / "compose.yaml"


def documented() -> list[str]:
    """Return the command lines of the fenced blocks of docs/deployment.md."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (DOCS / "deployment.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    known = ("fedinverse ", "flower-superexec ", "flower-superlink ", "flower-supernode ", "flwr ")
    return [line for line in lines if line.startswith(known)]


def composed() -> dict[str, list[str]]:
    """Return the commands of the compose file's services by name."""
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return {name: service["command"] for name, service in services.items()}


def parse(group: Any, words: list[str]) -> None:
    """Parse ``words`` as the command line of a Click group, without running it."""
    context = click.Context(group, info_name="program")
    while isinstance(group, click.Group):
        name, command, words = group.resolve_command(context, words)
        assert command is not None
        group, context = command, click.Context(command, info_name=name, parent=context)
    group.make_context(context.info_name, words)


def take(line: list[str]) -> None:
    """Let the program that ``line`` names parse it."""
    program, *words = line
    if program == "fedinverse":
        parse(typer.main.get_command(app), words)
    elif program == "flwr":
        from flwr.cli.app import app as flwr

        parse(typer.main.get_command(flwr), words)
    elif program == "flower-superexec":
        from flwr.supercore.cli.flower_superexec import _parse_args

        _parse_args().parse_args(words)
    elif program == "flower-superlink":
        from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

        _parse_args_run_superlink().parse_args(words)
    else:
        from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

        _parse_args_run_supernode().parse_args(words)


@pytest.mark.parametrize("line", documented())
def test_documented_commands_are_taken(line: str) -> None:
    take(shlex.split(line.replace("RUN_ID", "1"), comments=True))


def test_there_are_documented_commands_of_every_program() -> None:
    programs = {line.split()[0] for line in documented()}
    assert programs == {"fedinverse", "flwr", "flower-superexec", "flower-superlink", "flower-supernode"}


def test_a_wrong_option_is_not_taken() -> None:
    with pytest.raises(click.UsageError):
        take(["fedinverse", "deploy", "superlink", "keys", "--flet", "0.0.0.0:9092"])
    with pytest.raises(SystemExit):
        take(["flower-superlink", "--flet", "0.0.0.0:9092"])


@pytest.mark.parametrize(("service", "command"), composed().items())
def test_composed_commands_are_taken(service: str, command: list[str]) -> None:
    del service
    take(["fedinverse", *command])


def test_the_composed_parties_agree() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    nodes = [name for name in services if name.startswith("node-")]
    assert services["superlink"]["command"][:2] == ["deploy", "superlink"]
    volumes = {name: service["volumes"][0] for name, service in services.items()}
    assert len(set(volumes.values())) == len(nodes) + 1  # the worker shares its node's directory, nobody else's
    assert volumes["worker-02"] == volumes["node-02"]
    for number, name in enumerate(nodes):
        words = services[name]["command"]
        assert words[words.index("--partition") + 1] == str(number)
        assert f"/own/{name}.key" in words
    assert not any("ports" in service for service in services.values())
    config = commands.connection("127.0.0.1:8000", Path("/own/ca.pem"))
    assert (COMPOSE.parent / "config.toml").read_text() == config
