"""The run's log: ``log.jsonl`` in the run directory, one JSON object per event, beside the console.

Every line has ``time`` (UTC, ISO 8601), ``level``, ``event`` and ``message``; an event adds its own fields. What the
program logs through the standard ``logging`` (refused updates, failed clients, retries) lands here too, and its
warnings on the console. At 5 MB the file is moved to ``log.jsonl.1`` and begun anew; three old ones are kept.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.markup import escape

from fedinverse.errors import FedInverseError
from fedinverse.words import LONG, plain
from report.console import console

FILE, LIMIT, KEPT = "log.jsonl", 5_000_000, 3

_root = logging.getLogger("fedinverse")
_events = logging.getLogger("fedinverse.run")
_KEY = re.compile(r"\b[a-z]\w*(?:\.\w+)+\b")


def event(name: str, message: str, **fields: Any) -> None:
    """Log the event ``name`` with its fields, such as ``event("round", ..., world="with_victim", round=3)``."""
    _events.info(message, extra={"event": name, "fields": fields})


@contextmanager
def logging_to(directory: Path, keys: Mapping[str, Any]) -> Iterator[None]:
    """Log into ``directory`` while the body runs; how it ends, if not well, is logged too.

    Args:
        keys: the configuration by dotted path: what an error can name as its ``field``.
    """
    file = RotatingFileHandler(directory / FILE, maxBytes=LIMIT, backupCount=KEPT, encoding="utf-8")
    file.setFormatter(JsonLines())
    warnings = _Console(logging.WARNING)
    level = _root.level
    _root.setLevel(logging.INFO)
    _root.addHandler(file)
    _root.addHandler(warnings)
    try:
        yield
    except BaseException as error:
        _log_end(error, keys)
        raise
    finally:
        _root.removeHandler(file)
        _root.removeHandler(warnings)
        _root.setLevel(level)
        file.close()


def _log_end(error: BaseException, keys: Mapping[str, Any]) -> None:
    if isinstance(error, KeyboardInterrupt):
        event("stopped", "stopped from outside")
        return
    named = [key for key in _KEY.findall(str(error)) if key in keys]
    fields = {"kind": type(error).__name__, "field": named[0] if named else None}
    mendable = isinstance(error, FedInverseError | OSError)
    # Only into the file: the command line shows the message, and an unknown error its traceback.
    _events.error(str(error), extra={"event": "error", "fields": fields, "quiet": True}, exc_info=not mendable)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.levelname.lower()),
            "message": record.getMessage(),
            "logger": record.name,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Console(logging.Handler):
    """Shows warnings above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print ``record``, unless its text reaches the console in another way."""
        if not getattr(record, "quiet", False):
            level = record.levelname.lower()
            console.print(f"[yellow]{level}[/yellow] {escape(plain(record.getMessage(), LONG))}", soft_wrap=True)
