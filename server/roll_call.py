"""Who takes part: every node is asked once which partition it is, and its answer is held against what is known of it.

A node says of itself what it likes. Where the server's run directory has a ``nodes.json``, made by whoever registered
the nodes' keys, a node is the partition that stands there and no other: Flower gives a registered key one node id.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedinverse.errors import IntegrityError, RefusedReplyError, StageError
from fedinverse.layout import RunFiles
from fedinverse.messages import WHO_QUERY, read_partition
from fedinverse.storage import read_json
from fedinverse.words import plain

log = logging.getLogger("fedinverse.server")
_PAUSE = 0.5  # seconds between two rounds of questions
_TRIES = 5  # times a node that answers with an error is asked


def known_nodes(directory: Path) -> dict[int, int]:
    """Return node id -> partition as ``nodes.json`` in the server's run directory has it; empty without one.

    Raises:
        IntegrityError: it is no object of whole numbers, or names a partition twice.
    """
    path = RunFiles(directory).nodes
    if not path.exists():
        return {}
    table = read_json(path)
    ok = isinstance(table, dict) and all(type(value) is int and key.isdigit() for key, value in table.items())
    if not ok or len(set(table.values())) != len(table):
        raise IntegrityError(f'{path}: must map node ids to partitions, each partition once, such as {{"123": 0}}')
    return {int(key): value for key, value in table.items()}


def roll_call(grid: Grid, expected: int, timeout: float, known: Mapping[int, int]) -> dict[int, int]:
    """Ask every node which partition it is, until ``expected`` nodes have answered or will not.

    A node whose answer is no partition, or not its own, takes no part; who it is, is logged. So is one that only
    answers with errors, or not at all within ``timeout``, once as many nodes as are expected are there.

    Args:
        expected: number of clients; partitions run from 0.
        known: what is known of nodes beforehand, see ``known_nodes``.

    Returns:
        Node id -> partition id.

    Raises:
        StageError: too few nodes are there in time, two that nothing is known of claim one partition, or none is left.
    """
    partitions: dict[int, int] = {}
    refused: dict[int, str] = {}
    failed: dict[int, int] = {}
    deadline = time.monotonic() + timeout
    while len(partitions) + len(refused) < expected:
        asked = [node for node in grid.get_node_ids() if node not in partitions and node not in refused]
        questions = [Message(RecordDict(), node, WHO_QUERY) for node in asked]
        left = max(deadline - time.monotonic(), 1.0)
        for reply in grid.send_and_receive(questions, timeout=left) if questions else ():
            node = reply.metadata.src_node_id
            if reply.has_error():
                failed[node] = failed.get(node, 0) + 1
                log.warning("node %d did not say who it is: %s", node, plain(reply.error.reason))
                if failed[node] >= _TRIES:
                    refused[node] = "it answered with errors only"
                continue
            try:
                partitions[node] = _checked(reply, node, expected, known)
            except RefusedReplyError as error:
                refused[node] = str(error)
        if len(partitions) + len(refused) < expected:
            if time.monotonic() > deadline:
                _fill_up(grid, partitions, refused, expected, timeout)
                break
            time.sleep(_PAUSE)
    for node, reason in refused.items():
        noted = {"event": "refused node", "fields": {"node": str(node), "reason": reason}}
        log.warning("node %d takes no part: %s", node, reason, extra=noted)
    _check_once_each(partitions)
    if not partitions:
        raise StageError("no node said which partition it is; the warnings name the reason of each")
    return partitions


def _checked(reply: Message, node: int, expected: int, known: Mapping[int, int]) -> int:
    try:
        partition = read_partition(reply, expected)
    except RefusedReplyError:
        raise
    except Exception as error:  # whatever else is wrong with it
        raise RefusedReplyError(f"its answer cannot be read ({plain(f'{type(error).__name__}: {error}')})") from None
    if known and known.get(node) != partition:
        whose = f"partition {known[node]}" if node in known else "none of the nodes"
        raise RefusedReplyError(f"it says it is partition {partition}; by nodes.json it is {whose}")
    return partition


def _fill_up(grid: Grid, partitions: dict[int, int], refused: dict[int, str], expected: int, timeout: float) -> None:
    """At the deadline: connected nodes that said nothing are refused; too few connected nodes end the run."""
    silent = [node for node in grid.get_node_ids() if node not in partitions and node not in refused]
    if len(partitions) + len(refused) + len(silent) < expected or not partitions:
        raise StageError(
            f"{len(partitions)} of {expected} nodes answered within {timeout:g} s; start the missing ones "
            "or lower population.clients"
        )
    refused |= dict.fromkeys(silent, f"it did not say who it is within {timeout:g} s")


def _check_once_each(partitions: Mapping[int, int]) -> None:
    claims: dict[int, list[int]] = {}
    for node, partition in partitions.items():
        claims.setdefault(partition, []).append(node)
    for partition, nodes in claims.items():
        if len(nodes) > 1:
            claimants = ", ".join(map(str, sorted(nodes)))
            raise StageError(
                f"nodes {claimants} all claim partition {partition}; give each its own partition-id, or say in "
                f"nodes.json of the server's run directory which node is which, and the others take no part"
            )
