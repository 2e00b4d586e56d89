"""Around their ClientApp: it answers who it is, captures at the attacker's node, and deals out the data hook's rows.

The wrapped app finds its own run_config in the context, as under ``flwr run``. Its exceptions stay its own: the first
of every client is kept with its traceback, and Flower gets it as it came.
"""

import importlib
import inspect
import sys
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from attacker.spool import Spool, captured
from fedinverse.errors import FedInverseError
from fedinverse.storage import atomic_write
from fedinverse.theirs import attribute_at, their_traceback
from pipeline.ownapp.app import FlowerApp
from pipeline.ownapp.images import chosen
from pipeline.ownapp.plan import ALONE, COMPLAINTS, Plan

WHO, ANSWER, PARTITION = "query.fedinverse_who", "fedinverse", "partition"


@cache
def client_of(plan: str) -> "WrappedClient":
    """Return the wrapped ClientApp of the plan at that path, one per process."""
    return WrappedClient(plan)


class WrappedClient:
    """Stands for a ClientApp in Flower's simulation. It is sent to other processes as the path of its plan."""

    def __init__(self, plan: str) -> None:
        self._path, self._plan = plan, Plan.read(Path(plan))
        self._app: Callable[[Message, Context], Message] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return client_of, (self._path,)

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer ``message`` as their app does."""
        partition = int(context.node_config["partition-id"])
        try:
            app = self._loaded()
            if message.metadata.message_type == WHO:
                return Message(RecordDict({ANSWER: ConfigRecord({PARTITION: partition})}), reply_to=message)
            return self._answer(app, message, context, partition)
        except Exception as error:
            self._complain(partition, error)
            raise

    def _answer(
        self, app: Callable[[Message, Context], Message], message: Message, context: Context, partition: int
    ) -> Message:
        plan, empty = self._plan, context.run_config
        context.run_config = {**plan.run_config}
        try:
            federated = plan.world == "with_victim" and not (Path(plan.directory) / ALONE).exists()
            if partition == plan.attacker and federated:
                return captured(lambda: Spool.read(Path(plan.capture)), message, context, app)
            return app(message, context)
        finally:
            context.run_config = empty  # Flower's runtime takes back no context whose run_config was changed

    def _loaded(self) -> Callable[[Message, Context], Message]:
        if self._app is None:
            plan = self._plan
            app = FlowerApp(Path(plan.app), "", plan.serverapp, plan.clientapp, {})
            app.on_path()
            if plan.rows:
                deal(plan.data, plan.rows, Path(plan.directory))
            self._app = app.load("clientapp")
        return self._app

    def _complain(self, partition: int, error: Exception) -> None:
        path = Path(self._plan.directory) / COMPLAINTS / f"client-{partition}.txt"
        if not path.exists():
            text = str(error) if isinstance(error, FedInverseError) else their_traceback(error)
            atomic_write(path, f"{text}\n")


def deal(data: str, rows: dict[str, list[int]], directory: Path) -> None:
    """Let the data hook give every client only its ``rows``; that it was asked is noted in ``directory``."""
    hook = attribute_at(data, "data")
    module, _, name = data.partition(":")

    @wraps(hook)
    def dealt(*given: Any, **named: Any) -> Any:
        bound = inspect.signature(hook).bind(*given, **named).arguments
        partition = str(int(next(iter(bound.values()))))
        answer = hook(*given, **named)
        (directory / COMPLAINTS).mkdir(parents=True, exist_ok=True)
        hook_marker(directory, partition).touch()
        return chosen(answer, rows[partition])

    setattr(importlib.import_module(module), name, dealt)
    for loaded in list(sys.modules.values()):  # one that is imported already has the hook itself, maybe by another name
        for called, value in list(getattr(loaded, "__dict__", {}).items()):
            if value is hook:
                setattr(loaded, called, dealt)


def hook_marker(directory: Path, partition: str) -> Path:
    """Return the file that says that a client asked the data hook for ``partition``."""
    return directory / COMPLAINTS / f"asked-{partition}"
