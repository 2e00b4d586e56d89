"""The ClientApp: the same for honest and malicious clients. A node's own operator may wrap it in one more mod."""

from functools import lru_cache
from importlib import import_module
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.clipping import clipping
from clients.node import Node, node_of
from clients.secure import secure_aggregation
from clients.training import Training, evaluate, train
from fedinverse.config import parse
from fedinverse.memory import keep_freed_memory
from fedinverse.messages import ARRAYS, CLIENT, CONFIG, METRICS, PROXIMAL_MU, from_record, to_record
from fedinverse.models import Classifier, build
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import check_finite, into_module, to_weights

# What a role adds to the honest client. Found by name, so that honest code never imports the attacker, and chosen by
# the node's own configuration, never by a message from the server.
ROLE_MODS = {"malicious": "attacker.capture:capture"}


def role_mod(message: Message, context: Context, call_next: Any) -> Message:
    """Flower mod: run the mod of this node's role around the honest app."""
    path = ROLE_MODS.get(node_of(context).role)
    if path is None:
        return cast(Message, call_next(message, context))
    module, name = path.split(":")
    return cast(Message, getattr(import_module(module), name)(message, context, call_next))


app = ClientApp(mods=[secure_aggregation, role_mod, clipping])  # the outermost first


@lru_cache(maxsize=2)
def _network(name: str, classes: int, width: float) -> Classifier:
    """One network per process; every message overwrites its weights."""
    keep_freed_memory()
    return build(name, classes, width, seed=0)


def _receive(message: Message) -> tuple[Classifier, Any]:
    """Return the network holding the received weights, and the server's config; NaN and misfits are refused."""
    config = message.content[CONFIG]
    weights = from_record(message.content[ARRAYS])
    check_finite(weights, "the received global model")
    network = _network(config["model"], config["classes"], config["width"])
    into_module(network, weights, "the received global model")
    return network, config


@app.query("who")
def who(message: Message, context: Context) -> Message:
    """Tell the server which partition this node is, so that it can sample and sort by it."""
    return Message(RecordDict({CLIENT: ConfigRecord({"partition": node_of(context).partition})}), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the received model on this node's shard and send it back with its example count."""
    node = node_of(context)
    network, config = _receive(message)
    settings = parse(Training, {key: config[key] for key in Training.model_fields}, "training", "train message")
    random = generator(config["seed"], "client", config["server-round"], node.partition)
    defence = node.defence()
    proximal_mu = float(config.get(PROXIMAL_MU, 0.0))
    result = train(network.to(node.device), node.shard, settings, defence, random, node.device, proximal_mu)
    metrics = {"num-examples": result.examples, "train-loss": result.loss, "train-accuracy": result.accuracy}
    told: dict[str, str | float] = {"defence": defence.name, **defence.report()}
    return _reply(message, node, MetricRecord(metrics), network, told)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the received model on this node's shard."""
    node = node_of(context)
    network, config = _receive(message)
    with seeded(derive(config["seed"], "client evaluation", config["server-round"], node.partition), node.device):
        loss, accuracy = evaluate(network.to(node.device), node.shard, node.device)
    metrics = {"num-examples": len(node.shard), "eval-loss": loss, "eval-accuracy": accuracy}
    return _reply(message, node, MetricRecord(metrics))


def _reply(
    message: Message,
    node: Node,
    metrics: MetricRecord,
    network: Classifier | None = None,
    told: dict[str, str | float] | None = None,
) -> Message:
    # What a defence tells goes beside the metrics: Flower averages those, and an epsilon has no mean.
    content = RecordDict({METRICS: metrics, CLIENT: ConfigRecord({"partition": node.partition, **(told or {})})})
    if network is not None:
        content[ARRAYS] = to_record(to_weights(network))
    return Message(content, reply_to=message)
