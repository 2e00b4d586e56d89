"""``python -m fedinverse.program MODULE …``: run a module of a room as a process of its own, as ``python -m`` does.

The process looks for circular garbage a fifteenth as often, and not at its end. PyTorch, Flower and Ray make a million
objects when they are imported, none of them garbage: looking for some takes 0.4 s of the three seconds of those
imports, and looking once more before the process ends takes as long again.
"""

import atexit
import gc
import runpy
import sys

_YOUNG = 10_000  # new objects after which Python looks; 700 by itself


def collect_rarely() -> None:
    """Set the collector of this process: a program's first act, before it imports anything large."""
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)  # what is frozen is not looked at when the interpreter is taken down


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` so."""
    return [sys.executable, "-m", "fedinverse.program", module, *arguments]


if __name__ == "__main__":
    collect_rarely()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
