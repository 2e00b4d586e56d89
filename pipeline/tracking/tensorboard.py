"""TensorBoard event files in ``RUN/tracking/tensorboard``: ``tensorboard --logdir runs`` shows all runs."""

import json
import shutil
from collections.abc import Mapping

from fedinverse.run import Run
from pipeline.tracking.tracker import Tracker


class TensorBoard(Tracker):
    """Written anew whenever the run is started or resumed, so that no point is there twice."""

    def __init__(self, run: Run, project: str) -> None:
        from tensorboardX import SummaryWriter

        del project  # TensorBoard groups by directory
        directory = run.path / "tracking" / "tensorboard"
        shutil.rmtree(directory, ignore_errors=True)
        self._writer = SummaryWriter(str(directory))
        self._writer.add_text("config", f"```json\n{json.dumps(run.table, indent=2)}\n```")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, words: Mapping[str, str]) -> None:
        """Write the words as text and close the file."""
        for name, text in words.items():
            self._writer.add_text(name, text)
        self._writer.close()
