"""Train evaluators in a process of its own, beside whatever else a run does meanwhile.

E1 and E2 follow from the vault alone, and what the open evaluators take for "none of these" from samples of the
attacks' priors besides: they can be trained while the federation runs and the attacker inverts. Evaluators are trained
with one thread each, so that scores do not depend on the machine. What this process makes goes to the run's store and
to the cache; the audit finds it there, waits for what is being trained (``kept`` holds a lock), and trains the rest
itself. If this process failed, that is all of it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from auditor.evaluators.embedding import fit_embedding
from auditor.evaluators.evaluator import THREADS, train_judge
from auditor.evaluators.material import material_of
from auditor.evaluators.open_set import none_images, train_open_evaluator
from auditor.settings import Audit
from fedinverse.machine import end_with_parent, keep_freed_memory
from fedinverse.program import command_of
from fedinverse.registry import search_path
from fedinverse.run import Run
from fedinverse.seeds import threads

WORTH = 10_000  # images shown in training below which starting a process takes longer than it saves
_KINDNESS = 5  # of 19: the clients and the attacker come first, it takes what they leave
_EVERY = 0.5  # seconds between two looks for samples


class Ahead:
    """Trains the evaluators of ``run`` beside the block, where that saves time.

    It saves nothing on one core, on an accelerator that the others use, or for a small vault.

    Args:
        run: whose reconstructions they will judge.
        settings: of its audit.
        samples: of the open evaluators, see ``none_images``; files that are not there yet are waited for. None: nobody
            knows yet which, and E1 and E2 alone are trained.
    """

    def __init__(self, run: Run, settings: Audit, samples: Sequence[Path] | None) -> None:
        self._run, self._settings, self._samples = run, settings, samples
        self._process: subprocess.Popen[bytes] | None = None

    def trains_with(self, samples: Sequence[Path]) -> bool:
        """Return whether the process was started, and the open evaluators it trains learn from these samples."""
        return self._process is not None and self._samples is not None and list(self._samples) == list(samples)

    def __enter__(self) -> Self:
        run, settings = self._run, self._settings
        images = int((run.split["part"] == "vault").sum()) * settings.evaluator.epochs
        if settings.device == "cpu" and (os.cpu_count() or 1) > 1 and images >= WORTH:
            samples = [] if self._samples is None else ["--samples", *map(str, self._samples)]
            self._process = subprocess.Popen(
                command_of("auditor.evaluators.ahead", str(run.path.resolve()), str(os.getpid()), *samples),
                env=os.environ | {"PYTHONPATH": search_path()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()  # done by now, or the block ended with an error
            self._process.wait()


def main(directory: str, parent: str, *options: str) -> None:
    """Train them for the run in ``directory``; end with process ``parent``. ``options``: ``--samples`` and files."""
    end_with_parent(int(parent))
    os.nice(_KINDNESS)
    keep_freed_memory()
    run = Run(Path(directory))
    settings, store = run.section("audit", Audit).evaluator, run.files.auditor.root
    with threads(THREADS):
        material = material_of(run, settings)
        train_judge(material, settings, store)
        fit_embedding(material.vault.images)
        if not options:
            return
        samples = [Path(each) for each in options[1:]]
        while not all(each.exists() for each in samples):
            time.sleep(_EVERY)
        none = none_images(run, samples)
        for number in (0, 1):
            train_open_evaluator(material, settings, number, none, store)


if __name__ == "__main__":
    main(*sys.argv[1:])
