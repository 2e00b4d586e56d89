"""Train the first open evaluator in a process of its own, while the audit trains E1 and the second one.

Evaluators are trained with one thread each, so that scores do not depend on the machine, and an audit of a whole run
has three of them to train. What this process makes goes to the run's store and to the cache; the audit finds it there,
waits for it while it is being trained (``kept`` holds a lock), and trains it itself if this process failed.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from auditor.evaluators.evaluator import THREADS
from auditor.evaluators.material import material_of
from auditor.evaluators.open_set import none_images, train_open_evaluator
from auditor.settings import Audit
from fedinverse.processes import end_with_parent
from fedinverse.registry import search_path
from fedinverse.run import Run
from fedinverse.seeds import threads

WORTH = 10_000  # images shown in training below which starting a process takes longer than it saves


@contextmanager
def ahead(run: Run, settings: Audit, samples: Sequence[Path]) -> Iterator[None]:
    """Train the first open evaluator of ``run`` beside the block, where that saves time; ``samples``: ``none_images``.

    It saves nothing on one core, on an accelerator that the others use, or for a small vault.
    """
    images = int((run.split["part"] == "vault").sum()) * settings.evaluator.epochs
    if settings.device != "cpu" or (os.cpu_count() or 1) < 2 or images < WORTH:
        yield
        return
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "auditor.evaluators.ahead",
            str(run.path.resolve()),
            str(os.getpid()),
            *map(str, samples),
        ],
        env=os.environ | {"PYTHONPATH": search_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()  # done by now, or the block ended with an error
        process.wait()


def main(directory: str, parent: str, *samples: str) -> None:
    """Train it for the run in ``directory``; end with process ``parent``."""
    end_with_parent(int(parent))
    run = Run(Path(directory))
    settings, none = run.section("audit", Audit).evaluator, none_images(run, [Path(each) for each in samples])
    with threads(THREADS):
        train_open_evaluator(material_of(run, settings), settings, 0, none, run.files.auditor.root)


if __name__ == "__main__":
    main(*sys.argv[1:])
