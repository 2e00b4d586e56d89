"""Weights & Biases, offline, in ``RUN/tracking/wandb``; ``wandb sync`` sends it, should you want that."""

import shutil
from collections.abc import Mapping

from fedinverse.run import Run
from fedinverse.tables import flat
from pipeline.tracking.tracker import Tracker


class Wandb(Tracker):
    """Written anew whenever the run is started or resumed. Never goes online."""

    def __init__(self, run: Run, project: str) -> None:
        import wandb

        directory = run.path / "tracking" / "wandb"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        quiet = wandb.Settings(console="off", silent=True, disable_git=True, x_disable_stats=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(directory),
            project=project,
            name=run.path.name,
            config=flat(run.table),
            settings=quiet,
            save_code=False,
        )
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")  # its own steps may only rise; rounds of two worlds do not

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values against their round."""
        self._run.log({"round": step, **values})

    def close(self, words: Mapping[str, str]) -> None:
        """Put the words into the summary and end the run."""
        self._run.summary.update(dict(words))
        self._run.finish(exit_code=0 if words else 1)
