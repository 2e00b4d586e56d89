"""Code that is not ours: finding it by import path, and showing its failures as its own."""

import importlib
import traceback
from typing import Any

from fedinverse.errors import ConfigError, FedInverseError


class TheirError(FedInverseError):
    """Code of the user's raised an exception: what was asked of it, and the exception with its own traceback.

    Args:
        what: one sentence in our words.
        error: their exception.
    """

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(f"{what}. Their code raised:\n{their_traceback(error)}")


def their_traceback(error: BaseException) -> str:
    """Return the traceback of ``error`` from the first frame on that is not FedInverse's own."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = next((place for place, frame in enumerate(frames) if not _is_ours(frame.filename)), len(frames))
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames[theirs:])] if frames[theirs:] else []
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _is_ours(file: str) -> bool:
    return any(part in file for part in ("/fedinverse/models/", "/fedinverse/theirs.py", "/pipeline/ownapp/"))


def attribute_at(path: str, key: str) -> Any:
    """Return what stands at ``package.module:name``; ``key`` is the setting that names it.

    Raises:
        ConfigError: the path is malformed, or the module has no such name.
        TheirError: the module cannot be imported.
    """
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{key} = '{path}' is no import path; write it as package.module:name")
    try:
        loaded: Any = importlib.import_module(module)
    except Exception as error:
        raise TheirError(f"{key} = '{path}': module '{module}' cannot be imported", error) from error
    for part in name.split("."):
        if not hasattr(loaded, part):
            near = (
                ", ".join(sorted(word for word in vars(loaded) if not word.startswith("_"))[:12])
                if hasattr(loaded, "__dict__")
                else ""
            )
            raise ConfigError(f"{key} = '{path}': module '{module}' has no '{part}' (it has: {near})")
        loaded = getattr(loaded, part)
    return loaded
