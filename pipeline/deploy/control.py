"""What ``flwr`` asks of a SuperLink: register a node, submit a run, say how it fares. Every call has an end."""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedinverse.errors import StageError
from fedinverse.house import APP_FILE, CONFIGS, HOME, INSTALLED, KERNEL, ROOMS
from fedinverse.storage import atomic_write
from pipeline.deploy import commands

_CALL = 60.0  # seconds one flwr command may take; 1 to 3 are usual


@dataclass(frozen=True)
class Control:
    """The control API of one SuperLink, through the ``flwr`` command.

    Attributes:
        home: a Flower home of its own, where the address stands and logs are written.
        nodes: node id -> number of the nodes that were registered through it.
        within: what a command begins with to reach it (``pipeline.deploy.network``).
    """

    home: Path
    nodes: dict[str, int] = field(default_factory=dict)
    within: tuple[str, ...] = ()

    @classmethod
    def connect(cls, home: Path, control: str, authority: Path, within: tuple[str, ...] = ()) -> "Control":
        """Write the Flower config that names the SuperLink at ``control`` (``host:port``) into ``home``."""
        atomic_write(home / "config.toml", commands.connection(control, authority))
        return cls(home, within=within)

    def register(self, public_key: Path) -> str:
        """Register a node's public key; return its node id."""
        return str(self._answer(commands.register(public_key))["node-id"])

    def submit(self, run_directory: Path) -> str:
        """Submit the run of ``run_directory``; return Flower's run id.

        Raises:
            StageError: the SuperLink refused.
        """
        app = app_directory(self.home / "flower-app")
        return str(self._answer(commands.submit(app, run_directory))["run-id"])

    def status(self, run_id: str) -> str:
        """Return Flower's status of a run: ``pending``, ``starting``, ``running``, ``finished:completed`` …"""
        # `flwr run --stream` ends with 0 even when the run failed; the list tells the truth.
        return str(self._answer(commands.show(run_id))["runs"][0]["status"])

    def fetch_log(self, run_id: str) -> Path:
        """Write the ServerApp's log to ``serverapp.log`` and return its path (the SuperLink keeps it to itself)."""
        path = self.home / "serverapp.log"
        done = self._call(commands.log(run_id))
        atomic_write(path, done.stdout + done.stderr)
        return path

    def _answer(self, command: list[str]) -> Any:
        done = self._call(command)
        try:
            answer = json.loads(done.stdout)
        except json.JSONDecodeError:
            answer = {}
        if done.returncode != 0 or not answer.get("success"):
            said = answer.get("error-message") or done.stdout + done.stderr
            raise StageError(f"'{' '.join(command[:3])}' failed: {str(said).strip()}")
        return answer

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self.within, *commands.program(command)],
                cwd=self.home,
                env=commands.environment(self.home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=_CALL,
            )
        except subprocess.TimeoutExpired as error:
            raise StageError(
                f"'{' '.join(command[:3])}' gave no answer within {_CALL:g} s: is the SuperLink up?"
            ) from error


def app_directory(scratch: Path) -> Path:
    """Return the directory of the Flower app: the checkout, or ``scratch`` with the installed packages laid out anew.

    Both give the same bundle, byte for byte.
    """
    if not INSTALLED:
        return HOME
    shutil.rmtree(scratch, ignore_errors=True)
    code = shutil.ignore_patterns("__pycache__", "rooms", "configs")
    shutil.copytree(KERNEL, scratch / KERNEL.name, ignore=code)
    for room in ROOMS:
        shutil.copytree(HOME / room, scratch / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONFIGS, scratch / CONFIGS.name)
    for name in (APP_FILE.name, "LICENSE"):
        shutil.move(scratch / KERNEL.name / name, scratch / name)
    return scratch
