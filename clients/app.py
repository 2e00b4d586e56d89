"""The ClientApp: the same for honest and malicious clients. A node's own operator may wrap it in one more mod."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any, cast

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from clients.clipping import clipping
from clients.node import Node, node_of
from clients.secure import secure_aggregation
from clients.settings import Training
from clients.training import evaluate, train
from fedinverse.arrays import is_packed, to_record
from fedinverse.config import parse
from fedinverse.errors import ConfigError, StageError
from fedinverse.machine import keep_freed_memory
from fedinverse.messages import ARRAYS, CLIENT, METRICS, Instructions, Weights, read_instructions, read_model
from fedinverse.models import Classifier, build, check_shapes
from fedinverse.seeds import derive, generator, seeded
from fedinverse.storage import check_finite, into_module, to_weights
from fedinverse.words import plain

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


class ReceivedModel:
    """The model that this process received last.

    Clients of one round that share a process receive the same arrays: they are looked at, and laid out as a network
    keeps them, once.
    """

    def __init__(self) -> None:
        self._network: Classifier | None = None
        self._names: list[str] = []
        self._arrays: list[NDArray[Any]] = []
        self._state: list[Tensor] = []

    def into(self, network: Classifier, record: object, weights: Weights) -> None:
        """Copy ``weights``, which ``record`` holds, into ``network``.

        Raises:
            IntegrityError: they are not this network's, or not finite.
        """
        names, arrays = list(weights), list(weights.values())
        same = network is self._network and names == self._names and all(map(operator.is_, arrays, self._arrays))
        if not same:
            check_finite(weights, "the received global model")
            into_module(network, weights, "the received global model")
        state = list(network.state_dict().values())
        if same:
            for tensor, kept in zip(state, self._state, strict=True):
                tensor.copy_(kept)
        elif is_packed(record):  # what came from another host is new every time
            self._network, self._names, self._arrays = network, names, arrays
            self._state = [tensor.clone() for tensor in state]


_received = ReceivedModel()


def _receive(message: Message, node: Node) -> tuple[Classifier, Instructions]:
    """Return the network holding the received weights, and what the server asks for.

    Sizes are held against the operator's limits, and shapes against the network's, before either takes up memory.
    """
    instructions = read_instructions(message.content, Training.model_fields)
    node.limits.check_model(instructions.model)
    record = message.content.get(ARRAYS)
    weights = read_model(record, node.limits.model_bytes)
    model = instructions.model, instructions.classes, instructions.width
    _check_shapes(*model, tuple((name, array.shape) for name, array in weights.items()))
    network = _network(*model)
    _received.into(network, record, weights)
    return network, instructions


def _place(network: Classifier, device: str) -> Classifier:
    """Move ``network`` to ``device``, unless it is there: a network of forty tensors takes most of a millisecond."""
    there = next(network.parameters()).device == torch.device(device)
    return network if there else network.to(device)


@lru_cache(maxsize=2)
def _check_shapes(name: str, classes: int, width: float, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> None:
    """Refuse weights that are not of this network; a round's weights are looked at as the last round's were."""
    check_shapes(dict(shapes), name, classes, width, "the received global model")


@contextmanager
def _named(what: str, node: Node) -> Iterator[None]:
    """Turn what PyTorch raises in the body into one message: hyper-parameters that overflow, no such device."""
    try:
        yield
    except (RuntimeError, ValueError, ArithmeticError) as error:
        reason = plain((str(error).splitlines() or [type(error).__name__])[0])
        raise StageError(f"this node cannot {what} as the server asks on device '{node.device}': {reason}") from error


@app.query("who")
def who(message: Message, context: Context) -> Message:
    """Tell the server which partition this node is, so that it can sample and sort by it."""
    return Message(RecordDict({CLIENT: ConfigRecord({"partition": node_of(context).partition})}), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the received model on this node's shard and send it back with its example count."""
    node = node_of(context)
    network, instructions = _receive(message, node)
    settings = parse(Training, instructions.training, "training", "train message")
    if settings.epochs > node.limits.epochs:
        raise ConfigError(
            f"the server asks for {settings.epochs} epochs, more than this node's operator allows "
            f"({node.limits.epochs}; 'max-epochs' in the node config)"
        )
    random = generator(node.seed, "training", instructions.server_round)
    defence, participant = node.defence(), node.participant()
    pull, number = instructions.proximal_mu, instructions.server_round
    with _named("train", node):
        _place(network, node.device)
        images = node.shard if participant is None else participant.shard(network, node.shard, number)
        result = train(network, images, settings, defence, random, node.device, pull)
    if participant is not None:
        participant.reply(network, number)
    metrics = {"num-examples": len(node.shard), "train-loss": result.loss, "train-accuracy": result.accuracy}
    report: dict[str, str | float] = {"defence": defence.name, **defence.report()}
    return _reply(message, node, MetricRecord(metrics), network, report)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the received model on this node's shard."""
    node = node_of(context)
    network, instructions = _receive(message, node)
    with _named("evaluate", node), seeded(derive(node.seed, "evaluation", instructions.server_round), node.device):
        loss, accuracy = evaluate(_place(network, node.device), node.shard, node.device)
    metrics = {"num-examples": len(node.shard), "eval-loss": loss, "eval-accuracy": accuracy}
    return _reply(message, node, MetricRecord(metrics))


def _reply(
    message: Message,
    node: Node,
    metrics: MetricRecord,
    network: Classifier | None = None,
    report: dict[str, str | float] | None = None,
) -> Message:
    # What a defence tells goes beside the metrics: Flower averages those, and an epsilon has no mean.
    content = RecordDict({METRICS: metrics, CLIENT: ConfigRecord({"partition": node.partition, **(report or {})})})
    if network is not None:
        content[ARRAYS] = to_record(to_weights(network))
    return Message(content, reply_to=message)
