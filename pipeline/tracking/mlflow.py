"""MLflow in a local database beside the runs: ``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows all."""

from collections.abc import Mapping

from fedinverse.run import Run
from fedinverse.tables import flat
from pipeline.tracking.tracker import Tracker

_TAG = "fedinverse.run"


class MLflow(Tracker):
    """One MLflow run per run directory, continued on resume; points it has are not written again."""

    def __init__(self, run: Run, project: str) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=f"sqlite:///{run.path.parent / 'mlflow.db'}")
        known = self._client.get_experiment_by_name(project)
        experiment = (
            known.experiment_id
            if known
            else self._client.create_experiment(project, artifact_location=(run.path.parent / "mlflow").as_uri())
        )
        name = run.path.name
        mine = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{name}'")
        if mine:
            self._id = mine[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=name, tags={_TAG: name}).info.run_id
            for key, value in flat(run.table).items():
                self._client.log_param(self._id, key, value)
        self._written: dict[str, set[int]] = {}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the points that are not there."""
        for name, value in values.items():
            if step not in self._steps(name):
                self._client.log_metric(self._id, name, value, step=step)
                self._steps(name).add(step)

    def _steps(self, name: str) -> set[int]:
        if name not in self._written:
            self._written[name] = {point.step for point in self._client.get_metric_history(self._id, name)}
        return self._written[name]

    def close(self, words: Mapping[str, str]) -> None:
        """Write the words as tags and end the run."""
        for name, text in words.items():
            self._client.set_tag(self._id, name, text)
        self._client.set_terminated(self._id, "FINISHED" if words else "KILLED")
