"""A small Flower app for audits of apps that we did not write, and settings that make an audit short."""

from pathlib import Path
from typing import Any

import tomli_w

from pipeline.ownapp.federation import main
from pipeline.ownapp.settings import FILE

QUICK: dict[str, Any] = {
    "engine": "local",
    "actors": 1,
    "schedule": {"restarts": 2, "processes": 1, "rounds": "last"},
    "attack": {
        "kind": "gmi",
        "iterations": 3,
        "prior": {"width": 0.1, "steps": 2, "critic_steps": 1, "batch_size": 8},
    },
}


def quick(judge: str) -> dict[str, Any]:
    return {**QUICK, "audit": {"evaluator": {"model": judge, "width": 0.1, "epochs": 1}, "unaided_steps": 0}}


class SameProcess:
    """Stands for the process of an app's federation: runs it in the test's, which has imported everything already."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self.returncode = main(command[-1])

    def poll(self) -> int:
        """Return the exit code."""
        return self.returncode


MINI = """
import numpy as np, torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 4))
    def forward(self, x):
        return self.b(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 5, stride=4), nn.Linear(4 * 7 * 7, 4)
    def forward(self, x):
        return self.b(torch.relu(self.a(x)).flatten(1))

class Deep(Net):
    def __init__(self, depth):
        super().__init__()

def pixels(labels, seed):
    random = np.random.default_rng(seed)
    bright = (1 + np.asarray(labels)[:, None, None, None]) / 5
    return (random.random((len(labels), 1, 32, 32)) * bright).astype("float32")

def load(number, count):
    labels = np.zeros(120, int) if number == 0 else 1 + np.arange(120) % 3
    return pixels(labels, number), labels

def held():
    labels = np.arange(240) % 4
    return pixels(labels, 99), labels

def other_labels(number, count):
    return load(number, count)[0], load(number, count)[1] + 3

def negative(number, count):
    return load(number, count)[0] * 2 - 1, load(number, count)[1]

def lonely(number, count, fewest):
    images, labels = load(number, count)
    return (images[:fewest], labels[:fewest]) if number == 2 else (images, labels)

def shared(number, count):
    labels = np.arange(120) % 4
    return pixels(labels, number), labels

def worded(number, count):
    images, labels = load(number, count)
    return list(zip(images, [("none", "a", "b", "c")[label] for label in labels]))

def different(number, count):
    labels = np.random.default_rng().integers(0, 4, 40)
    return pixels(labels, 3), labels

def small(number, count):
    images, labels = load(number, count)
    return images[:, :, :28, :28], labels

def raising(number, count):
    raise FileNotFoundError("/data/hospital-%d" % number)

client, other, failing = ClientApp(), ClientApp(), ClientApp()

@client.train()
def train(msg: Message, context: Context) -> Message:
    load(context.node_config["partition-id"], context.node_config["num-partitions"])
    return Message(RecordDict({"w": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}), reply_to=msg)

@other.train()
def train_without_the_hook(msg: Message, context: Context) -> Message:
    return Message(RecordDict({"w": msg.content["arrays"], "m": MetricRecord({"num-examples": 1})}), reply_to=msg)

@failing.train()
def train_and_fail(msg: Message, context: Context) -> Message:
    raise ZeroDivisionError("no images in this hospital")

server, deaf, broken, idle = ServerApp(), ServerApp(), ServerApp(), ServerApp()

@server.main()
def main(grid, context):
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=context.run_config["nodes"])
    strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=1, timeout=20)

@deaf.main()
def to_the_first_two(grid, context):
    from flwr.serverapp import Grid
    for node in list(grid.get_node_ids())[:2]:
        content = RecordDict({"arrays": ArrayRecord(Net().state_dict()), "c": ConfigRecord({})})
        list(grid.send_and_receive([Message(content, node, "train")]))

@broken.main()
def raise_at_once(grid, context):
    raise KeyError("server-address")

@idle.main()
def nothing(grid, context):
    pass
"""
PROJECT = """
[project]
name = "mini"
[tool.flwr.app.components]
serverapp = "mini:{server}"
clientapp = "mini:{client}"
[tool.flwr.app.config]
nodes = 2
"""
AUDIT: dict[str, Any] = {
    "clients": 4,
    "victim": 0,
    "attacker": 3,
    "model": "mini:Net",
    "classes": 4,
    "data": "mini:load",
    "held_out": "mini:held",
    "public": "glyphs",
    "public_limit": 50,
    "patience": 1.0,
    "inputs": {"shape": [1, 32, 32]},
    **quick("scnn"),
}


def mini(directory: Path, *, server: str = "server", client: str = "client", **changes: Any) -> Path:
    """Write the small app with an audit.toml; None takes a key out."""
    (directory / "mini.py").write_text(MINI)
    (directory / "pyproject.toml").write_text(PROJECT.format(server=server, client=client))
    table = {key: value for key, value in {**AUDIT, **changes}.items() if value is not None}
    (directory / FILE).write_text(tomli_w.dumps(table))
    return directory
