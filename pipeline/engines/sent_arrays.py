"""The arrays that a server sends to the actors of a session, each once for all who are sent them."""

import threading
from typing import TYPE_CHECKING

from pipeline.engines.parcels import Parcel, Shelf

if TYPE_CHECKING:  # a session begins before all of this is imported
    from flwr.app import ArrayRecord

    from pipeline.engines.client_process import Sent


class SentArrays:
    """Which records lie where the actors of a session can read them; for the servers of all its federations.

    Args:
        prefix: what the names of their files begin with; empty: Ray carries them.
    """

    def __init__(self, prefix: str) -> None:
        self._shelf = Shelf(prefix)
        self._shared = bool(prefix)
        self._placed: dict[int, tuple[ArrayRecord, Sent]] = {}  # by id, which a record that is held keeps
        self._readers: dict[str, set[int]] = {}  # file -> actors that may still read it
        self._lock = threading.Lock()

    def place(self, record: "ArrayRecord", actor: int) -> "Sent":
        """Return where ``actor`` finds ``record``, which must not change; it is put there if need be."""
        with self._lock:
            _, place = self._placed.get(id(record), (record, None))
            if place is None or (isinstance(place, Parcel) and place.is_gone):
                place = self._shelf.pack(record) if self._shared else _put(record)
                self._placed[id(record)] = record, place
            if isinstance(place, Parcel):
                self._readers.setdefault(place.path, set()).add(actor)
            return place

    def let_go(self, record: "ArrayRecord") -> None:
        """Send ``record`` to nobody any more."""
        with self._lock:
            self._placed.pop(id(record), None)
            self._take_back()

    def was_read(self, actor: int, paths: list[str]) -> None:
        """Note that ``actor`` has nothing in use of the files ``paths``.

        Where two federations share it, it may have been sent one of them again meanwhile. The file stays what it is
        until its record is let go of, after which no message needs it.
        """
        with self._lock:
            for path in paths:
                self._readers.get(path, set()).discard(actor)
            self._take_back()

    def is_lost(self, actor: int) -> None:
        """Note that ``actor`` is no more."""
        with self._lock:
            for readers in self._readers.values():
                readers.discard(actor)
            self._take_back()

    def _take_back(self) -> None:
        held = {place.path for _, place in self._placed.values() if isinstance(place, Parcel)}
        for path in [path for path, readers in self._readers.items() if not readers and path not in held]:
            del self._readers[path]
            self._shelf.take_back([path])


def _put(record: "ArrayRecord") -> "Sent":
    import ray

    return [ray.put(record)]
