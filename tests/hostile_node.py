"""Makes the ClientApp of one SuperNode hostile: in round t its reply is changed by the t-th kind of its environment.

The node's processes find a ``sitecustomize`` on their import path; the app itself is untouched.
"""

import importlib.abc
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

KINDS = "FEDINVERSE_TEST_HOSTILE_KINDS"
UNDECODABLE = "a shape of text"  # Flower itself stumbles over it when it fetches the reply


def prepare(patch: "pytest.MonkeyPatch", directory: Path, kinds: list[str]) -> None:
    """Have a node that is started while ``patch`` lasts be hostile: it inherits this process's import path."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text("import hostile_node\nhostile_node.install()\n")
    patch.syspath_prepend(str(directory))
    patch.setenv(KINDS, "|".join(kinds))


def install() -> None:
    """Have ``clients.app`` spoiled when it is imported."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "clients.app":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # Flower imports an app, forgets it and imports it again
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            module.app = _spoiled(module.app)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _spoiled(app: Any) -> Any:
    from flwr.clientapp import ClientApp

    class Hostile(ClientApp):
        def __call__(self, message: Any, context: Any) -> Any:
            return _changed(message, app(message, context))

    return Hostile()


def _changed(message: Any, reply: Any) -> Any:
    from flwr.app import Message
    from hostile_replies import TRAIN

    from fedinverse.messages import ARRAYS, CONFIG

    if message.metadata.message_type != "train":
        return reply
    kind = os.environ[KINDS].split("|")[int(message.content[CONFIG]["server-round"]) - 1]
    if kind == UNDECODABLE:
        next(iter(reply.content[ARRAYS].values())).shape = ("three",)
        return reply
    return Message(TRAIN[kind](reply.content), metadata=reply.metadata)
