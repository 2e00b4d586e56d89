"""Mutated files for ``benchmarks/fuzz.py``: those of a small run, each read by the program's own functions."""

import copy
import json
import random
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from fuzz_configs import VALUES, mutate_table, mutated_bytes

from attacker.inversion import Inversion
from attacker.schedule import captured
from attacker.worker import Bench, Plan
from fedinverse.config import Population
from fedinverse.data import Pool
from fedinverse.errors import FedInverseError
from fedinverse.house import CONFIGS
from fedinverse.run import Run, prepare
from fedinverse.storage import content_sha256, load_weights, read_jsonl, read_metadata, weights_sha256
from fedinverse.tables import laid_over
from pipeline.experiment import Experiment, load_experiment, resolved
from server.checkpoints import latest_round
from server.settings import Federation


def mutated_json(raw: bytes, chance: random.Random) -> bytes:
    """Return JSON (or JSON lines) with a value of another kind somewhere: valid, and wrong."""
    lines = raw.decode().split("\n") if raw.count(b"\n{") else [raw.decode()]
    at = chance.randrange(max(len(lines) - 1, 1))
    value = json.loads(lines[at])
    if chance.random() < 0.1 or not isinstance(value, dict):
        value = copy.deepcopy(chance.choice(VALUES))
    else:
        mutate_table(value, chance)
    lines[at] = json.dumps(value)
    return "\n".join(lines).encode()


@dataclass(frozen=True)
class Target:
    """A kind of file: where it lies in the run, and who reads it.

    Attributes:
        path: the file.
        read: reads the file through the program's own functions; returns what it understood.
        hashed: whether damage must be noticed.
        structured: whether it is JSON, so that well-formed nonsense is tried too.
    """

    path: Path
    read: Callable[[Path], Any]
    hashed: bool
    structured: bool = False


def small_experiment(scratch: Path) -> Experiment:
    """Return a small experiment, whose configuration is written into ``scratch``."""
    text = tomllib.loads((CONFIGS / "quickstart.toml").read_text())
    changes: dict[str, Any] = {
        "data": {"private_limit": 400, "public_limit": 200},
        "population": {"clients": 4, "victim_classes": [0, 1]},
        "model": {"width": 0.1},
        "federation": {"rounds": 2},
        "engine": {"kind": "local"},
        "attacker": {"rounds": "last", "restarts": 1},
        "audit": {"unaided_steps": 1, "evaluator": {"width": 0.1, "epochs": 1}},
        "attacks": {"gmi": {"iterations": 1, "prior": {"width": 0.1, "steps": 1, "critic_steps": 1, "batch_size": 8}}},
    }
    scratch.mkdir(exist_ok=True)
    config = scratch / "small.toml"
    config.write_text(tomli_w.dumps(laid_over(text, changes)))
    return load_experiment(str(config), [], scratch)


def make_run(scratch: Path) -> Path:
    """Make a small run directory, federated and inverted, and return it."""
    from pipeline.engines import run_federation
    from pipeline.stages.controls import controls
    from pipeline.stages.invert import planned

    experiment = small_experiment(scratch)
    run = prepare(scratch / "run", resolved(experiment))
    run_federation(run, "with_victim", experiment.engine)
    planned(run, controls(run)).work()
    return run.path


def targets(run: Path) -> dict[str, Target]:
    """Return the kinds of files of ``run`` and their readers. A reader gets the run directory's path."""
    world = "with_victim"
    whole = Run(run)
    spool = whole.files.attacker.spool(world)
    capture = max(spool.glob("round-*.safetensors"))
    about = next(whole.files.attacker.inversions.rglob("about.json"))
    pool = whole.pools["private"].path
    copied = run / "pool"
    if not copied.exists():
        shutil.copytree(pool, copied)

    return {
        "checkpoint": Target(whole.files.server.checkpoint(world, 2), lambda path: _resumed(run), True),
        "capture": Target(capture, lambda path: (_weights(path), sorted(captured(spool))), True),
        "metadata": Target(capture, _told, True),
        "reconstructions": Target(
            about.with_name("reconstructions.safetensors"), lambda path: _sum(Inversion(path.parent)), True
        ),
        "split": Target(run / "split.parquet", lambda path: Run(run).split.to_csv(), True),
        "pools": Target(run / "pools.json", lambda path: sorted(Run(run).pools), True, True),
        "images": Target(copied / "images.npy", lambda path: Pool(copied).verify(), True),
        "array": Target(copied / "labels.npy", lambda path: Pool(copied).labels.tolist(), False),
        "ledger": Target(whole.files.server.ledger(world), read_jsonl, False, True),
        "receipts": Target(spool / "receipts.jsonl", read_jsonl, False, True),
        "rounds": Target(whole.files.server.rounds(world), lambda path: Run(run).recorded_rounds(world), False, True),
        "config": Target(run / "config.json", _read_run, False, True),
        "plan": Target(run / "attacker" / "plan.json", _jobs, False, True),
        "inversion": Target(about, lambda path: Inversion(path.parent).load().cost.steps, False, True),
        "pool": Target(
            copied / "pool.json", lambda path: (Pool(copied).class_names, Pool(copied).verify()), False, True
        ),
    }


def _weights(path: Path) -> str:
    return weights_sha256(load_weights(path)[0])


def _told(path: Path) -> list[str | None]:
    """Return what the program uses of a file's metadata; a hash whose own key is damaged counts as none."""
    metadata = read_metadata(path)
    return [metadata.get(key) for key in ("model", "width", "classes", "model-round", "sha256")]


def _resumed(run: Path) -> str:
    latest = latest_round(Run(run), "with_victim")
    return weights_sha256(latest[1]) if latest else ""


def _jobs(path: Path) -> int:
    return len(list(Bench(Plan.read(path)).jobs()))


def _sum(inversion: Inversion) -> str:
    reconstructions = inversion.load()
    return content_sha256([reconstructions.labels.tolist(), np.asarray(reconstructions.images).tobytes().hex()])


def _read_run(path: Path) -> Any:
    run = Run(path.parent)
    run.section("population", Population)
    return run.seed, run.model.name, run.section("federation", Federation).rounds, run.class_names


def file_case(name: str, target: Target, number: int, seed: int) -> bytes:
    """Return the mutated bytes of case ``number``."""
    chance = random.Random(f"{seed}/{name}/{number}")
    raw = target.path.read_bytes()
    mutated = mutated_json(raw, chance) if target.structured and chance.random() < 0.5 else mutated_bytes(raw, chance)
    return mutated if mutated != raw else mutated + b"\x00"


def check_file(target: Target, damaged: bytes, meant: Any) -> str:
    """Read ``damaged`` in place of the file; return what happened; the file is whole again afterwards."""
    raw = target.path.read_bytes()
    try:
        target.path.write_bytes(damaged)
        content = target.read(target.path)
    except FedInverseError:
        return "refused"
    finally:
        target.path.write_bytes(raw)
    if content == meant:
        return "same"
    assert not target.hashed, "a damaged file was read as if it were whole"
    return "other"
