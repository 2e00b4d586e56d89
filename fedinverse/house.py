"""Where the rooms lie, and that no stranger's module answers to the name of one.

In a checkout ``server``, ``clients`` and the others lie beside this package. An installed package holds them within
itself, in ``fedinverse/rooms/``: modules of such common names have no business in everybody's site-packages.
``import fedinverse`` makes them importable by their names, and refuses a module of the same name from elsewhere.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fedinverse.errors import NameTakenError

ROOMS = ("server", "clients", "strategies", "attacker", "auditor", "report", "pipeline")

_PACKAGE = Path(__file__).resolve().parent
INSTALLED = (_PACKAGE / "rooms").is_dir()
HOME = _PACKAGE / "rooms" if INSTALLED else _PACKAGE.parent  # the directory of the rooms
CONFIGS = (_PACKAGE if INSTALLED else HOME) / "configs"
APP_FILE = (_PACKAGE if INSTALLED else HOME) / "pyproject.toml"  # declares the Flower app
KERNEL = _PACKAGE


class _Doorkeeper(MetaPathFinder):
    """Finds the rooms, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the room ``fullname`` lies; ``NameTakenError`` if another module of that name comes first."""
        if fullname not in ROOMS:
            return None
        first = PathFinder.find_spec(fullname)
        if first is not None and first.origin is not None and not _is_ours(fullname, first.origin):
            raise NameTakenError(_taken(fullname, first.origin))
        return PathFinder.find_spec(fullname, [str(HOME)])


def open_rooms() -> None:
    """Make the rooms importable by their names, in this process and in those that inherit its ``sys.path``.

    Raises:
        NameTakenError: a module of another origin was imported under the name of a room.
    """
    if INSTALLED and str(HOME) not in sys.path:
        sys.path.append(str(HOME))
    if not any(isinstance(finder, _Doorkeeper) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Doorkeeper())
    for name in ROOMS:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and not _is_ours(name, file):
            raise NameTakenError(_taken(name, file))


def check_rooms() -> None:
    """Look for every room: a name that is taken is known before any work.

    Raises:
        NameTakenError: a module of another origin would be imported under the name of a room.
    """
    for name in ROOMS:
        find_spec(name)


def _is_ours(room: str, file: str) -> bool:
    """Return whether ``file`` lies in the room; below ``HOME`` there may be an environment, with packages of others."""
    return Path(file).resolve().is_relative_to((HOME / room).resolve())


def _taken(name: str, file: str) -> str:
    return (
        f"FedInverse has a package called '{name}', and so has this environment: {file}. Rename that one, or take its "
        "directory off PYTHONPATH and the working directory, or install FedInverse into an environment of its own"
    )
