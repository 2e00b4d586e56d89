"""Simulation speed beside the peers: interleaved runs of the same federation, medians and ratios to the floor.

    python benchmarks/simulation.py [--models scnn mcnn] [--batches 10 60] [--images 5000 60000] [--rounds 6]
        [--repeats 3] [--peers DIR] [--variants ...] [--json PATH]

100 clients hold the 5,000 digits in equal shares, or 60,000 made of them, each twelve times with another pixel changed.
10 clients train in a round, E = 1, SGD. ``ray`` and ``local`` are our
engines as a run uses them: on top of what the others do they hash, check, evaluate (100 images) and store the model
of every round. The others are in ``benchmarks/peers.py``. ``--peers`` names a directory with one sub-directory per
framework of the registry, made by

    pip install --no-deps --target DIR/pfl pfl dp-accounting prv-accountant absl-py dm-tree immutabledict attrs
    pip install --no-deps --target DIR/fedlab fedlab nvidia-ml-py

so that none of them meets this environment; a framework that is not there is left out, and that is said. ``pfl`` is one
process, ``pfl2`` two that PyTorch's own launcher starts, each of which trains half of a round's clients. ``floor_all``
and ``pfl2_all`` also evaluate, hash and store every round's model, as our engines do. Per cell:
median seconds of a round after the first, the ratio to the floor, and the whole run, process start included.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from fedinverse.client_data import shard_of
from fedinverse.data.mnist import load
from fedinverse.data.source import Request
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from fedinverse.storage import write_json
from pipeline.experiment import load_experiment, resolved

ROOT = Path(__file__).resolve().parent.parent
OURS, PEERS = ("ray", "local"), ("floor", "floor_all", "loop", "flower", "pfl", "pfl2", "pfl2_all", "fedlab")
FROM_REGISTRY = {
    "pfl": "pfl",
    "pfl2": "pfl",
    "pfl2_all": "pfl",
    "fedlab": "fedlab",
}  # variant -> its directory in --peers
NAMES = {
    "floor": "floor, 2 processes", "floor_all": "floor that evaluates and stores", "ray": "our `ray`, 2 actors",
    "flower": "stock Flower, 2 actors",
    "loop": "plain loop, 1 process",
    "pfl": "pfl-research, 1 process", "pfl2": "pfl-research, 2 processes",
    "pfl2_all": "pfl-research, 2 processes, that evaluates and stores", "fedlab": "FedLab, 1 process",
    "local": "our `local`, 1 process",
}  # fmt: skip
CLIENTS, SAMPLED = 100, 10
DIGITS = 5000

ENGINE = """
import sys
from pathlib import Path
from fedinverse.program import collect_rarely
collect_rarely()  # as every program of ours
from pipeline.engines import Engine, run_federation, session_of
engine = Engine(kind=sys.argv[2], actors=2)
with session_of(engine) as session:
    if session is not None:
        session.begin()  # as a run does: Ray starts while PyTorch is imported
    from fedinverse.run import Run
    run_federation(Run(Path(sys.argv[1])), "with_victim", engine, session=session)
"""


def assignments(model: str, batch: int, rounds: int, clients: int = CLIENTS, width: float = 1.0) -> list[str]:
    """Return what turns the quick start into this federation."""
    return [
        f"population.clients={clients}", "population.victim_classes=[]", "population.malicious=0", "attacks={}",
        "split={ train = 0.96, vault = 0.02, reserve = 0.02 }", f"model.name={model}", f"model.width={width}",
        "training={ epochs = 1, lr = 0.01, momentum = 0.0, batch_size = " + str(batch) + " }",
        f"federation.rounds={rounds}", f"federation.fraction_train={SAMPLED / clients}",
        "federation.fraction_evaluate=0.0", f"audit.evaluator.model={'mcnn' if model == 'lenet5' else 'lenet5'}",
    ]  # fmt: skip


def fresh_run(directory: Path, model: str, batch: int, rounds: int, clients: int = CLIENTS, width: float = 1.0) -> Run:
    """Prepare a run directory for one run of our own."""
    return prepared(directory, assignments(model, batch, rounds, clients, width))


def prepared(directory: Path, changes: list[str]) -> Run:
    """Prepare a run directory for the quick start with ``changes``."""
    return prepare(directory, resolved(load_experiment("quickstart", changes)))


def more_digits(place: Path, images: int) -> Path:
    """Write ``images`` digits, a multiple of the 5,000, as a torchvision root; no two are equal."""
    digits = load(Request("mnist", (1, 28, 28)))
    pixels = np.tile(digits.images.reshape(-1, 28 * 28), (images // DIGITS, 1))
    generator = np.random.default_rng(0)
    rows = np.arange(len(pixels))
    pixels[rows, generator.integers(0, 28 * 28, len(rows))] ^= (1 + rows // DIGITS).astype(np.uint8)
    root = place / "MNIST" / "raw"
    root.mkdir(parents=True)
    header = struct.pack(">4I", 0x803, len(pixels), 28, 28)
    (root / "train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    labels = np.tile(digits.labels, images // DIGITS).astype(np.uint8)
    (root / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, len(labels)) + labels.tobytes())
    return place


def save_shards(run: Run, path: Path) -> None:
    """Write every client's images and labels, and those that the server evaluates, for the peers."""
    held = {f"images{client}": shard_of(run, client, "with_victim") for client in range(CLIENTS)}
    arrays: dict[str, Any] = {name: np.ascontiguousarray(shard.images.numpy()) for name, shard in held.items()}
    arrays |= {name.replace("images", "labels"): shard.labels.numpy() for name, shard in held.items()}
    held_out = part_of(run, "reserve")
    arrays |= {"held_out": held_out.images.numpy(), "held_out_labels": held_out.labels.numpy()}
    np.savez(path, clients=CLIENTS, **arrays)


def measure(variant: str, run: Run, work: Path, peers: Path | None) -> dict[str, Any]:
    """Run one variant once; return its median round, its first round's end and its whole time, in seconds."""
    paths = [str(ROOT), *([str(peers / FROM_REGISTRY[variant])] if peers and variant in FROM_REGISTRY else [])]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, *inherited])}
    ours = [sys.executable, "-c", ENGINE, str(run.path), variant]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "pfl2" in variant else []
    theirs = [sys.executable, *launch, str(ROOT / "benchmarks" / "peers.py"), variant, str(work)]
    command = ours if variant in OURS else theirs
    start = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=work.parent)
    whole = time.time() - start
    if done.returncode:
        raise SystemExit(f"{variant} failed: {done.stderr[-1500:]}")
    if variant in OURS:
        last = len(run.recorded_rounds("with_victim")) - 1
        # A round is evaluated and stored when a core is idle towards the next one's end; the last round, at once.
        ends = [run.files.server.checkpoint("with_victim", number).stat().st_mtime for number in range(1, last)]
    else:
        ends = json.loads(done.stdout.strip().splitlines()[-1])
    rounds = [later - earlier for earlier, later in pairwise(ends)]
    return {"round": statistics.median(rounds), "first": ends[0] - start, "whole": whole}


def cell(
    model: str, batch: int, images: int, chosen: argparse.Namespace, variants: list[str]
) -> dict[str, dict[str, float]]:
    """Measure every variant ``repeats`` times in turn; return medians and ratios."""
    taken: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="simulation-") as scratch:
        place = Path(scratch)
        changes = assignments(model, batch, chosen.rounds)
        if images > DIGITS:
            held = 100 / images  # the server evaluates 100 images of any number
            changes += [
                f"data.private_root={more_digits(place / 'digits', images)}",
                f"split={{ train = {1 - 2 * held}, vault = {held}, reserve = {held} }}",
            ]

        def fresh(name: str) -> Run:
            return prepared(place / name, changes)

        shards = place / "shards.npz"
        save_shards(fresh("data"), shards)
        work = place / "work.json"
        write_json(work, {"model": model, "width": 1.0, "batch_size": batch, "lr": 0.01, "rounds": chosen.rounds,
                          "sampled": SAMPLED, "data": str(shards)})  # fmt: skip
        for repeat in range(chosen.repeats):
            for variant in variants:
                run = fresh(f"{variant}-{repeat}") if variant in OURS else None
                taken[variant].append(measure(variant, run or Run(place), work, chosen.peers))
    rows = {name: {key: statistics.median(one[key] for one in all_) for key in all_[0]} for name, all_ in taken.items()}
    for row in rows.values():
        row["x floor"] = row["round"] / rows["floor"]["round"]
    return rows


def as_table(measured: dict[str, dict[str, dict[str, float]]], rounds: int) -> str:
    """Return all cells as the table of docs/benchmarks.md."""
    variants = [name for name in NAMES if name in next(iter(measured.values()))]
    lines = [["10 of 100 clients", *(NAMES[name] for name in variants)], ["---"] * (len(variants) + 1)]
    for cell, rows in measured.items():
        model, batch, images = cell.split()
        figures = [f"{rows[name]['round']:.3g} ({rows[name]['x floor']:.2f})" for name in variants]
        lines.append([f"{model.upper()}, B = {batch}, {int(images):,} digits", *figures])
        whole = [f"{rows[name]['whole']:.3g}" for name in variants]
        lines.append([f"the whole run of {rounds} rounds", *whole])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure all cells, print a table each and all as one, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["scnn", "mcnn"])
    parser.add_argument("--batches", nargs="+", type=int, default=[10, 60])
    parser.add_argument("--images", nargs="+", type=int, default=[DIGITS], help="multiples of 5,000")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=[*OURS, *PEERS])
    parser.add_argument("--peers", type=Path, help="directory with pfl/ and fedlab/")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    absent = [name for name in FROM_REGISTRY if not (chosen.peers and (chosen.peers / FROM_REGISTRY[name]).is_dir())]
    variants = ["floor", *(name for name in chosen.variants if name != "floor" and name not in absent)]
    for name in set(absent) & set(chosen.variants):
        print(f"{name} is left out: not in --peers")
    measured = {}
    for images, model, batch in product(chosen.images, chosen.models, chosen.batches):
        rows = measured[f"{model} {batch} {images}"] = cell(model, batch, images, chosen, variants)
        print(f"{model}, B = {batch}, {images:,} digits: load {os.getloadavg()[0]:.1f}")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["round"]):
            figures = f"round {row['round']:.3f} s, x floor {row['x floor']:.2f}"
            print(
                f"  {name:<10}{figures}, first round after {row['first']:.1f} s, whole {row['whole']:.1f} s", flush=True
            )
        if chosen.json:
            about = {"rounds": chosen.rounds, "repeats": chosen.repeats, "clients": CLIENTS, "sampled": SAMPLED}
            write_json(chosen.json, {"unit": "s; x floor: ratio of rounds", **about, "measured": measured})
    print(as_table(measured, chosen.rounds))


if __name__ == "__main__":
    main()
