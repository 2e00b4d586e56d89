"""One federation twice: with our own apps, and as somebody's app through ``audit-app``. The verdict's figures agree.

Both have the same network, images, shards, loss, optimiser, epochs and rounds; what differs is what each draws for
itself (initial weights, the order of batches). Over several seeds, the mean of each figure and its standard error are
printed side by side, with the difference in standard errors.

The attack succeeds here: it is the quick start's, with a smaller budget, on the quick start's digits.

    python benchmarks/own_app_agreement.py --seeds 3 --out /somewhere
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from fedinverse.client_data import shard_of
from fedinverse.layout import WITH_VICTIM
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from pipeline.experiment import load_experiment, resolved
from pipeline.ownapp.audit import audit_app
from pipeline.stages.all_stages import run_all

ROUNDS, EPOCHS, BATCH, RATE, CLIENTS, WIDTH = 6, 1, 16, 0.02, 4, 0.5
PUBLIC = "glyphs_unlike_digits"
ATTACK = {
    "kind": "gmi",
    "iterations": 200,
    "lr": 2e-4,
    "identity_loss": "max_margin",
    "prior": {"width": 0.25, "steps": 600, "critic_steps": 3, "batch_size": 32, "lr": 1e-3},  # shipped: letters-32
}
SCHEDULE = {"restarts": 5, "processes": 1}
AUDIT = {"evaluator": {"width": 0.25, "epochs": 20}, "unaided_steps": 0}
APP = """
import numpy as np, torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from fedinverse.models import build

def net():
    return build("mcnn", 10, {width})

def shard(number, count):
    held = np.load("{data}/client-%d.npz" % number)
    return held["images"] / np.float32(255), held["labels"]

def held_out():
    held = np.load("{data}/held-out.npz")
    return held["images"] / np.float32(255), held["labels"]

client, server = ClientApp(), ServerApp()

@client.train()
def train(msg: Message, context: Context) -> Message:
    model = net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    held = shard(context.node_config["partition-id"], context.node_config["num-partitions"])
    images, labels = map(torch.tensor, held)
    optimizer = torch.optim.SGD(model.parameters(), {rate}, momentum=0.9)
    model.train()
    for _ in range({epochs}):
        for rows in torch.randperm(len(labels)).split({batch}):
            if len(rows) > 1:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    metrics = MetricRecord({{"num-examples": len(labels)}})
    return Message(RecordDict({{"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}}), reply_to=msg)

@client.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    return Message(RecordDict({{"metrics": MetricRecord({{"num-examples": 1}})}}), reply_to=msg)

@server.main()
def main(grid, context):
    torch.manual_seed({seed})
    FedAvg().start(grid=grid, initial_arrays=ArrayRecord(net().state_dict()), num_rounds={rounds})
"""


def ours(seed: int, out: Path) -> Run:
    """Run the federation with our own apps."""
    table = {
        "name": f"ours-{seed}",
        "seed": seed,
        "data": {"public": PUBLIC, "public_limit": 6000},
        "population": {"clients": CLIENTS, "victim_classes": [0, 1, 2, 3, 4]},
        "model": {"name": "mcnn", "width": WIDTH},
        "training": {"epochs": EPOCHS, "batch_size": BATCH, "lr": RATE},
        "federation": {"rounds": ROUNDS, "fraction_train": 1.0},
        "engine": {"kind": "local"},
        "attacker": SCHEDULE,
        "attacks": {"gmi": ATTACK},
        "audit": AUDIT,
    }
    file = out / f"ours-{seed}.toml"
    file.write_text(tomli_w.dumps(table))
    experiment = load_experiment(str(file), [], out)
    run_all(experiment, resume=True)
    return prepare(out / f"ours-{seed}", resolved(experiment))


def theirs(run: Run, seed: int, out: Path) -> Run:
    """Put the same images, shard by shard, under an app that is not ours; audit it."""
    data = out / f"data-{seed}"
    data.mkdir(exist_ok=True)
    for client in range(CLIENTS):
        shard = shard_of(run, client, WITH_VICTIM)
        np.savez(data / f"client-{client}.npz", images=shard.images.numpy(), labels=shard.labels.numpy())
    parts = [part_of(run, part) for part in ("vault", "reserve")]
    images = np.concatenate([part.images.numpy() for part in parts])
    np.savez(data / "held-out.npz", images=images, labels=np.concatenate([part.labels.numpy() for part in parts]))
    app = out / f"app-{seed}"
    app.mkdir(exist_ok=True)
    values = {
        "width": WIDTH,
        "data": data,
        "rate": RATE,
        "epochs": EPOCHS,
        "batch": BATCH,
        "seed": seed,
        "rounds": ROUNDS,
    }
    name = f"digits_of_{seed}"
    (app / f"{name}.py").write_text(APP.format(**values))
    (app / "pyproject.toml").write_text(
        '[project]\nname = "digits"\n[tool.flwr.app.components]\n'
        f'serverapp = "{name}:server"\nclientapp = "{name}:client"\n'
    )
    audit = {
        "name": f"theirs-{seed}", "seed": seed, "clients": CLIENTS, "victim": 0, "attacker": CLIENTS - 1,
        "model": f"{name}:net", "classes": 10, "data": f"{name}:shard", "held_out": f"{name}:held_out",
        "public": PUBLIC, "public_limit": 6000, "engine": "local", "inputs": {"shape": [1, 32, 32]},
        "attack": ATTACK, "schedule": SCHEDULE, "audit": AUDIT,
    }  # fmt: skip
    (app / "audit.toml").write_text(tomli_w.dumps(audit))
    return Run(audit_app(app, out=out, resume=True))


def figures(run: Run) -> dict[str, float]:
    """Return what the verdict and its table say of the last captured round."""
    verdict: dict[str, Any] = json.loads(run.files.verdict.read_text())
    metric, last = verdict["primary"]["metric"], verdict["primary"]["round"]
    scores = pd.read_parquet(run.files.auditor.scores)
    chosen = scores[(scores["metric"] == metric) & scores["label"].isin(run.population.victim_classes)]
    arms = {f"arm {arm}": float(part["value"].mean()) for arm, part in chosen.groupby("arm")}
    known = {line.round: line.victim_accuracy for line in run.recorded_rounds(WITH_VICTIM)}
    return {"model on the victim's classes": known[last], **arms}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    out = chosen.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(chosen.seeds):
        run = ours(seed, out)
        rows += [{"who": "ours", **figures(run)}, {"who": "theirs", **figures(theirs(run, seed, out))}]
    table = pd.DataFrame(rows).set_index("who")
    mean, error = table.groupby("who").mean(), table.groupby("who").std() / chosen.seeds**0.5
    print(f"| figure, mean of {chosen.seeds} seeds (standard error) | our apps | audit-app | difference / its error |")
    print("|---|---|---|---|")
    for name in table.columns:
        a, b = (f"{mean.loc[who, name]:.2f} ({error.loc[who, name]:.2f})" for who in ("ours", "theirs"))
        spread = float(np.hypot(error.loc["ours", name], error.loc["theirs", name]))
        apart = float(mean.loc["theirs", name] - mean.loc["ours", name])
        print(f"| {name} | {a} | {b} | {apart / spread:+.1f} |" if spread else f"| {name} | {a} | {b} | {apart:+.2f} |")


if __name__ == "__main__":
    main()
