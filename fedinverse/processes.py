"""Processes that belong to another one."""

import os
import threading
import time

_EVERY = 0.5  # seconds between two looks


def end_with_parent(parent: int) -> None:
    """End this process soon after process ``parent``, which started it: a run that is killed leaves nothing behind.

    It looks from a thread of its own, since a step of the work may take minutes; every write of ours is atomic.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
