"""Programs of ours look for circular garbage rarely; whoever imports a room in a program of their own is left alone."""

import os
import subprocess
import sys
from pathlib import Path

SAID = "import gc, sys; print(gc.get_threshold()[0], gc.get_threshold()[1:] == {rest}, __name__, sys.argv[1:])"


def printed(*arguments: str, place: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), *sys.path])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()


def test_a_module_runs_as_python_would_run_it_with_a_collector_that_looks_rarely(tmp_path: Path) -> None:
    import gc

    said = SAID.format(rest=gc.get_threshold()[1:])
    (tmp_path / "somebodys.py").write_text(said)
    assert printed("-m", "fedinverse.program", "somebodys", "a", "-b", place=tmp_path) == (
        "10000 True __main__ ['a', '-b']"
    )
    assert printed("-c", f"import fedinverse; {said}", place=tmp_path).startswith("700 True")
