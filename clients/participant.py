"""What a malicious participant may do beside honest training, if its node's own operator turned it on.

A participant of one kind changes what is trained on, another what is sent. Kinds are found by name, so that honest code
never imports the attacker; they are chosen by the node's own configuration, never by a message from the server.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

from fedinverse.config import Section
from fedinverse.errors import ConfigError
from fedinverse.models import Classifier
from fedinverse.shard import Shard

ACTIVE = {
    "gan": "attacker.active.gan:GanParticipant",
    "ascent": "attacker.active.ascent:AscentParticipant",
}


class Participant(Protocol):
    """An active participant, made anew for every train message.

    Attributes:
        settings: its settings, every default filled in.
    """

    settings: Section

    def shard(self, network: Classifier, shard: Shard, server_round: int) -> Shard:
        """Return the images to train on in this round, given the received ``network`` and its own ``shard``."""

    def reply(self, network: Classifier, server_round: int) -> None:
        """Change the trained ``network`` in place before it is sent, or leave it."""


def make_participant(
    kind: str, settings: Mapping[str, Any], seed: int, directory: Path, device: str | torch.device, origin: str
) -> Participant:
    """Return the participant of ``kind``.

    Args:
        seed: the node's own; random numbers derive from it.
        directory: where it keeps what it remembers between rounds.
        origin: what the settings come from, for messages.

    Raises:
        ConfigError: unknown kind or setting; names ``origin``.
    """
    if kind not in ACTIVE:
        raise ConfigError(f"{origin}: active '{kind}' is unknown; use one of {', '.join(ACTIVE)}, or leave it out")
    module, name = ACTIVE[kind].split(":")
    participant: Participant = getattr(import_module(module), name)(settings, seed, directory, device, origin)
    return participant
