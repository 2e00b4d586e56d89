"""Damaged files of a finished run for ``benchmarks/fuzz.py``: any file, read by the command that a user types next."""

import contextlib
import io
import random
import shutil
from pathlib import Path

from fuzz_configs import mutated_bytes
from fuzz_files import mutated_json, small_experiment

from fedinverse.errors import FedInverseError
from pipeline.cli.main import app
from pipeline.stages.all_stages import run_all

STRUCTURED = (".json", ".jsonl")
NOT_READ = (".png", ".csv", ".html")
COMMANDS = (
    ("report", "{run}"),
    ("runs", "show", "{run}"),
    ("runs", "list", "{runs}"),
    ("runs", "prune", "{run}"),
    ("compare", "{runs}"),
    ("judge", "{run}"),
    ("invert", "{run}"),
    ("audit", "{run}"),
)


def finished_run(scratch: Path) -> Path:
    """Make a small run, audited and reported, and return its directory."""
    return run_all(small_experiment(scratch), resume=False).parent


def run_case(
    whole: Path, scratch: Path, number: int, seed: int, commands: tuple[tuple[str, ...], ...] = COMMANDS
) -> str:
    """Damage one file of a copy of the run ``whole`` and type one command; return what happened."""
    chance = random.Random(f"{seed}/run/{number}")
    runs = scratch / "damaged"
    shutil.rmtree(runs, ignore_errors=True)
    copy = runs / whole.name
    shutil.copytree(whole, copy, symlinks=True)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix not in NOT_READ)
    damaged = chance.choice(files)
    how = damage(damaged, chance)
    command = [word.format(run=copy, runs=runs) for word in chance.choice(commands)]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            app(command, standalone_mode=False)
    except FedInverseError:
        return "refused"
    except OSError as error:
        if error.errno is None:  # the command line shows only those of the system as one message
            raise
        return "refused"
    except Exception as error:
        error.add_note(f"'{command[0]}' after {how}: {damaged.relative_to(copy)}")
        raise
    return "accepted"


def damage(path: Path, chance: random.Random) -> str:
    """Damage ``path`` in one of several ways; return which."""
    raw = path.read_bytes()
    kind = chance.choice(("bytes", "bytes", "shape", "shape", "gone", "empty", "a directory", "a link to nowhere"))
    if kind == "shape" and path.suffix in STRUCTURED:
        path.write_bytes(mutated_json(raw, chance))
        return kind
    if kind in ("bytes", "shape"):
        path.write_bytes(mutated_bytes(raw, chance))
        return "bytes"
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a link to nowhere":
        path.symlink_to("nowhere")
    return kind
