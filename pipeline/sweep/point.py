"""One point of a sweep, in a process of its own: ``python -m pipeline.sweep.point CONFIG``.

It is ``fedinverse run CONFIG --resume``, under a lock that lives as long as the process: a sweep that is started again
after a kill finds the points that outlived it, and does not run them a second time.
"""

import sys
from pathlib import Path

from filelock import FileLock, Timeout

from fedinverse.errors import StageError
from pipeline.cli.main import guarded, run


def main(config: str) -> None:
    """Run the experiment in the file ``config``, or what is left of it.

    Raises:
        StageError: another process is running it.
    """
    lock = FileLock(Path(config).with_suffix(".lock"), timeout=0)
    try:
        with lock:
            run(config, resume=True)
    except Timeout:
        raise StageError("another process is still running this point; wait for it, or end it") from None


if __name__ == "__main__":
    guarded(lambda: main(sys.argv[1]))
