"""What clients say of their training, round after round, and what differential privacy that adds up to per client.

``clients.jsonl`` has one line per client and round: examples, loss, defence, or the error it answered with, or that no
reply of it came (``AnsweredGrid``). Where noise is accounted, ``epsilon`` is what the client has spent of its own
(DP-SGD, noise on its update) in all rounds so far, and ``central_epsilon`` what it has spent in rounds whose average
the server put noise on. ``privacy.json`` is the summary.

Both hold for the weights sent, not for the losses and image counts that go beside them. They do not add up: a client's
own noise is there when the server looks, the server's only when others receive the model.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedinverse.accounting import Mechanism, composed_epsilon
from fedinverse.errors import FedInverseError, IntegrityError
from fedinverse.messages import Update
from fedinverse.records import ClientLine, PrivacySpent, append_lines

_OWN = ("dp_noise_multiplier", "dp_sample_rate", "dp_steps")
_CENTRAL = "central_noise_multiplier"


class ClientReports:
    """Appends to ``clients.jsonl`` in ``directory``; goes on with what is there."""

    def __init__(self, directory: Path) -> None:
        self._path, self._summary = directory / "clients.jsonl", directory / "privacy.json"
        # A round repeated after a kill is noted twice and counts once: the same message was sent, noise and all.
        self._own: dict[int, dict[int, tuple[Mechanism, float]]] = {}
        self._central: dict[int, dict[int, tuple[Mechanism, float]]] = {}
        self._last: dict[int, ClientLine] = {}
        for line in ClientLine.read_all(self._path):
            try:
                self._count(line)
            except (KeyError, TypeError, ValueError) as error:
                raise IntegrityError(f"{self._path}: a line is no client's report ({error!r}); delete it") from error

    def note(
        self,
        server_round: int,
        updates: Mapping[int, Update],
        refused: Mapping[int, str],
        central: dict[str, float] | None = None,
    ) -> None:
        """Note what came of the train messages of a round.

        Args:
            updates: by partition, as they were read: none holds a word that the schema does not know.
            refused: why there is no update of a partition, in words that are safe to print.
            central: ``central_noise_multiplier`` and ``central_delta`` of the noise their average gets, if accounted.
        """
        lines = []
        for partition in sorted(updates.keys() | refused.keys()):
            figures: dict[str, Any] = {}
            if partition not in refused:
                update = updates[partition]
                figures = {**update.report, **update.metrics, **(central or {})}
            line = ClientLine(server_round, partition, figures, refused.get(partition, ""))
            self._count(line)
            figures |= self._spent(partition)
            lines.append(replace(line, figures={key: _finite(value) for key, value in figures.items()}))
        append_lines(self._path, lines)
        if self._own or self._central:
            PrivacySpent.write_all(
                self._summary,
                {
                    partition: PrivacySpent(
                        str(self._last[partition].figures.get("defence", "none")),
                        len(self._own.get(partition, {}) | self._central.get(partition, {})),
                        **self._spent(partition),
                    )
                    for partition in self._own.keys() | self._central.keys()
                },
            )

    def _count(self, line: ClientLine) -> None:
        figures = line.figures
        if set(_OWN) <= figures.keys():
            noise, rate, steps = (float(figures[key]) for key in _OWN)
            event = ((noise, rate, int(steps)), float(figures["delta"]))
            self._own.setdefault(line.partition, {})[line.round] = event
        if _CENTRAL in figures:
            event = ((float(figures[_CENTRAL]), 1.0, 1), float(figures["central_delta"]))
            self._central.setdefault(line.partition, {})[line.round] = event
        self._last[line.partition] = line

    def _spent(self, partition: int) -> dict[str, float]:
        spent = {}
        for prefix, events in (("", self._own.get(partition)), ("central_", self._central.get(partition))):
            if events:
                delta = max(delta for _, delta in events.values())
                try:
                    epsilon = composed_epsilon([event for event, _ in events.values()], delta)
                except FedInverseError as error:  # only a file that was altered: replies are checked before
                    raise IntegrityError(f"{self._path}: client's figures make no epsilon ({error})") from error
                spent[f"{prefix}epsilon"] = epsilon
                spent[f"{prefix}delta"] = delta
        return spent


def _finite(value: Any) -> Any:
    """Return ``value``, or its name as text where JSON has no number for it (the epsilon of no noise)."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
