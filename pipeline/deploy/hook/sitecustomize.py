"""Capture at a SuperNode whose app is somebody else's, through its operator's environment alone.

Python imports a module of this name at its start. With this directory on the PYTHONPATH and ``FEDINVERSE_CAPTURE``
naming the settings of a spool, every ``ClientApp`` that Flower loads keeps what it receives, then answers as it would.
Whatever fails here leaves the app alone. Another ``sitecustomize`` on the path is run as well.
"""

import contextlib
import importlib.util
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from typing import Any

_WATCHED = "flwr.clientapp.client_app"


class _Finder(MetaPathFinder):
    """Lets the module of ``ClientApp`` be loaded as always, then puts the capture around it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's own spec with a loader that patches."""
        if fullname != _WATCHED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader)
        return spec


class _Patching(Loader):
    """Loads by another loader, then wraps ``ClientApp.__call__``."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: Any) -> Any:
        """As the other loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the other loader, then patch."""
        self._loader.exec_module(module)
        with contextlib.suppress(Exception):
            _wrap(module.ClientApp)


def _wrap(kind: Any) -> None:
    answer = kind.__call__

    def __call__(self: Any, message: Any, context: Any) -> Any:  # noqa: N807
        def app(given: Any, where: Any) -> Any:
            return answer(self, given, where)

        try:
            import fedinverse  # noqa: F401 - makes the rooms importable
            from attacker.spool import Spool, captured
        except Exception:
            return app(message, context)
        return captured(lambda: Spool.read(Path(os.environ["FEDINVERSE_CAPTURE"])), message, context, app)

    kind.__call__ = __call__


def _next_of_this_name() -> None:
    """Run the ``sitecustomize`` that this one stands before."""
    here = Path(__file__).resolve()
    for entry in sys.path:
        other = Path(entry or ".") / "sitecustomize.py"
        if other.exists() and other.resolve() != here:
            spec = importlib.util.spec_from_file_location("sitecustomize_of_the_site", other)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            return


if os.environ.get("FEDINVERSE_CAPTURE"):
    sys.meta_path.insert(0, _Finder())
_next_of_this_name()
