"""The spool: what a malicious node keeps of what it receives, from any Flower app.

``round-0007.safetensors`` is the model after round 7, ``receipts.jsonl`` has one line per message, ``replies/`` what
the node itself sent back in a round that it trained in; what is delivered twice (a round repeated after a restart of
the server) is noted once. ``rounds-from-0`` says that the app calls its first round 0. Inverting is another process's
work (``attacker.worker``): files survive a ClientApp that is torn down after every message.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flwr.app import Context, Message

from fedinverse.errors import IntegrityError
from fedinverse.layout import receipts_of, replies_of, round_file
from fedinverse.received import arrays_in, is_training, model_round, names_round_zero, round_in, trained, weights_in
from fedinverse.records import ModelFile, Receipt, append_lines, read_lines
from fedinverse.storage import read_json, save_weights, typed, weights_sha256, write_json
from fedinverse.words import plain

FROM_ZERO = "rounds-from-0"
log = logging.getLogger("fedinverse.attacker")


@dataclass(frozen=True)
class Spool:
    """Where captures go, and what is known of the network they belong to.

    Attributes:
        path: the directory.
        about: goes into every file's metadata: ``model``, ``width``, ``classes``.
        names: what the arrays of an app that sends a bare list are called, in its order.
        record: the array record of the weights; empty: the largest of a message.
    """

    path: str
    about: Mapping[str, str | int | float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    record: str = ""

    def write(self, path: Path) -> None:
        """Write these settings, for the node that captures."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Spool":
        """Read what ``write`` wrote; ``IntegrityError`` names the file and the key that does not fit."""
        return typed(Spool, read_json(path), path)

    @property
    def first_round(self) -> int:
        """What the app calls its first round: 1, as Flower does, or 0."""
        return 0 if (Path(self.path) / FROM_ZERO).exists() else 1

    def count_from_zero(self) -> None:
        """Note that the app calls its first round 0: else its first two models would both be taken for the first."""
        Path(self.path).mkdir(parents=True, exist_ok=True)
        (Path(self.path) / FROM_ZERO).touch()

    def keep(self, message: Message) -> None:
        """Write the weights of ``message``, unless they lie there, and note the receipt. Without arrays, do nothing.

        Raises:
            IntegrityError: a file of the spool is damaged. With damaged receipts the weights are kept before.
        """
        record = arrays_in(message.content, self.record)
        if record is None:
            return
        if names_round_zero(message):
            self.count_from_zero()
        kind, directory = message.metadata.message_type, Path(self.path)
        receipts, damage = receipts_of(directory), None
        try:
            noted = read_lines(Receipt, receipts)
        except IntegrityError as error:  # the model is kept all the same; that it came cannot be noted
            noted, damage = [], error
        weights = weights_in(record, self.names)
        sha = weights_sha256(weights)
        number = model_round(message, list(dict.fromkeys(line.sha256 for line in noted)), sha, self.first_round)
        path = directory / round_file(number)
        if path.exists() and ModelFile.read(path).sha256 != sha:
            # The server sent other weights for the same round: it was restarted, or sends each node its own.
            path = path.with_stem(f"{path.stem}-{sha[:8]}")
        if not path.exists():
            save_weights(path, weights, ModelFile.metadata(number, self.about))
        if damage is not None:
            raise damage
        node = str(message.metadata.dst_node_id)
        receipt = Receipt(number + is_training(kind), number, kind, sha, path.name, node, time.time())
        if not any(replace(line, time=receipt.time) == receipt for line in noted):
            append_lines(receipts, [receipt])

    def keep_reply(self, message: Message, reply: Message) -> None:
        """Write the weights that this node sends back for a train message; it knows its own share of the next model."""
        if reply.has_error() or not is_training(message.metadata.message_type):
            return
        record, asked = arrays_in(reply.content, self.record), arrays_in(message.content, self.record)
        if record is None or asked is None:
            return
        node = str(message.metadata.dst_node_id)
        named = round_in(message)
        if named is not None:
            number = named + 1 - self.first_round
        else:  # that of the receipt noted just now
            number = read_lines(Receipt, receipts_of(Path(self.path)))[-1].round
        path = replies_of(Path(self.path)) / round_file(number)
        path = path.with_stem(f"{path.stem}-{node}")
        weights = trained(weights_in(asked, self.names), weights_in(record, self.names))
        save_weights(path, weights, {"round": number, "node": node, **self.about})


def captured(
    spool: Callable[[], Spool], message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """Keep ``message`` in the spool, then let the app answer: whatever fails here, the node answers as it would."""
    _whatever_fails(lambda: spool().keep(message), message, "message could not be captured")
    reply = call_next(message, context)
    _whatever_fails(lambda: spool().keep_reply(message, reply), message, "reply could not be kept")
    return reply


def _whatever_fails(step: Callable[[], None], message: Message, what: str) -> None:
    try:
        step()
    except Exception as error:
        # A full disk, a damaged spool, a message of an unknown make: a node that does not answer gives itself away.
        reason = plain(f"{type(error).__name__}: {error}")
        log.warning("a %s %s: %s", plain(message.metadata.message_type, 40), what, reason)
