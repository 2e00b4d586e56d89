"""The process that Ray's workers are forked from, and the worker script that asks for a fork."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.forks import ForkServer
from pipeline.engines.ray_worker import SOCKET, fork_instead

SCRIPT = """
import json, os, random, sys
import numpy as np
about = {"argv": sys.argv, "pid": os.getpid(), "parent": os.getppid(), "here": os.getcwd(), "word": os.environ["WORD"],
         "random": [random.random(), float(np.random.rand())], "main": __name__,
         "there": [name for name in ("torch", "flwr", "ray") if name in sys.modules]}
print(json.dumps(about), flush=True)
if "--fail" in sys.argv:
    raise SystemExit(3)
"""
ASK = "import sys; from pipeline.engines.ray_worker import fork_instead; print(fork_instead(sys.argv[1], sys.argv[2:]))"


def ask(path: str, script: Path, word: str, *options: str) -> tuple[dict[str, Any], str]:
    """Ask for a fork from a process of its own, as Ray's worker script does; return what the fork and the asker say."""
    environment = os.environ | {"WORD": word, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", ASK, path, str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=script.parent, check=True)
    said, answer = done.stdout.splitlines()
    return json.loads(said), answer


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start Ray's workers as Ray does")
def test_a_fork_goes_on_as_the_process_that_asked(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    server = ForkServer()
    try:
        with socket.socket(socket.AF_UNIX) as dying:  # what asks may be killed before it has said what it wants
            dying.connect(server.path)
            socket.send_fds(dying, [(1000).to_bytes(8, "big")], [1, 2])
        answers = [ask(server.path, script, "first"), ask(server.path, script, "second", "--fail")]
        assert Path(server.path).parent.stat().st_mode & 0o77 == 0  # nobody else's processes reach it
    finally:
        server.end()
    for (said, answer), word in zip(answers, ("first", "second"), strict=True):
        assert answer == "True"
        assert said["word"] == word
        assert said["argv"][0] == str(script)
        assert said["here"] == str(tmp_path)
        assert said["main"] == "__main__"
        assert said["there"] == ["torch", "flwr"]  # imported before; Ray must not be
    (first, _), (second, _) = answers
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["pid"] != second["pid"]
    assert not set(first["random"]) & set(second["random"])
    assert not Path(server.path).exists()
    assert not fork_instead(server.path, [str(script)])


def test_whoever_asks_a_server_that_dies_starts_by_itself(tmp_path: Path) -> None:
    path = str(tmp_path / "forks")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def hang_up() -> None:
            listening.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert not fork_instead(path, ["worker.py"])
        thread.join()


@pytest.mark.parametrize(
    ("environment", "plain"),
    [(None, True), ("{}", True), ('{"env_vars": {}}', True), ('{"env_vars": {"A": "b"}}', False)],
)
def test_a_runtime_environment_is_left_to_rays_own_script(environment: str | None, plain: bool) -> None:
    from pipeline.engines.ray_worker import _is_plain

    assert _is_plain(environment) is plain


def test_rays_script_takes_the_options_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise workers start as slowly as Ray starts them, and nothing else would say so."""
    monkeypatch.setenv(SOCKET, "")
    from pipeline.engines.ray_worker import ray_script, takes_known_options

    assert takes_known_options(ray_script())
