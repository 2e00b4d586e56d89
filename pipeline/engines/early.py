"""Ray begins before what a run imports: of a configuration only its engine and its run directory are read for that."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedinverse.config import parse
from fedinverse.errors import FedInverseError
from fedinverse.tables import find_config, read_table
from pipeline.engines.engine import session_of
from pipeline.engines.settings import Engine

if TYPE_CHECKING:
    from pipeline.engines.ray_session import RaySession


@contextmanager
def early_session(
    config: str, assignments: Sequence[str], out: Path | None, *, profile: bool
) -> "Iterator[RaySession | None]":
    """Begin the session of a run that is yet to start; None where it has no Ray, or its directory is there already.

    A configuration that cannot be read begins none: whoever reads all of it says what is wrong.

    Raises:
        ConfigError: Ray cannot start here, or there is no GPU for the clients.
    """
    engine = None
    with suppress(FedInverseError, KeyError, OSError, ValueError):
        table = read_table(find_config(config), list(assignments))
        directory = Path(out or str(table.get("out", "runs"))) / str(table["name"])
        if not directory.exists():
            engine = parse(Engine, table.get("engine", {}), "engine", config)
    with nullcontext() if engine is None else session_of(engine, profile=profile) as session:
        if session is not None:
            session.begin()
        yield session
