"""Things by name: attacks, defences, sources, models, strategies, metrics, in this repository and outside it.

A name in a configuration is one of three things, and the string itself travels in configs and plans, so that every
process (a Ray actor, a SuperNode, the attacker's worker) looks it up for itself:

- a registered name: ``gmi``;
- ``package.module:Name``, an attribute of a module, or what that module registers under ``Name`` when it is imported;
- the name of an entry point that an installed package offers in the registry's group (``fedinverse.attacks``, ...).

A name means one thing: registering it twice, or installing a second package that offers it, is an error.
"""

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedinverse.errors import ConfigError

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """Entries of one kind by name.

    Args:
        what: the kind, for messages: ``"attack"``.
        group: entry points of installed packages are looked for here: ``"fedinverse.attacks"``.
        expected: what a ``package.module:Name`` must be, for messages: ``"a subclass of Attack"``.
        adopt: returns the entry that an imported object stands for, or None if it is none; it must not call the object.
    """

    def __init__(self, what: str, group: str, expected: str, adopt: Callable[[Any], T | None]) -> None:
        self._what, self._group, self._expected, self._adopt = what, group, expected, adopt
        self._entries: dict[str, T] = {}
        self._homes: dict[str, str] = {}  # name -> module that registered it

    def register(self, name: str, entry: T, home: str) -> None:
        """Add ``entry`` under ``name``; ``home`` is the module that defines it and may do so again (a reload).

        Raises:
            ConfigError: the name holds a colon, or another module took it.
        """
        if not name or ":" in name:
            raise ConfigError(f"{self._what} '{name}' of module {home}: a name must not be empty or hold a colon")
        taken = self._homes.get(name, home)
        if taken != home:
            raise ConfigError(
                f"{self._what} '{name}' of module {home}: the name is taken by module {taken}; choose another name"
            )
        self._entries[name], self._homes[name] = entry, home

    def named(self, name: str) -> Callable[[type[C]], type[C]]:
        """Return a decorator that registers a class under ``name`` and gives it the name."""

        def wrap(kind: type[C]) -> type[C]:
            self.register(name, kind, kind.__module__)  # type: ignore[arg-type]
            kind.name = name  # type: ignore[attr-defined]
            return kind

        return wrap

    def names(self) -> list[str]:
        """Return the registered names and those of installed packages, sorted."""
        return sorted({*self._entries, *(point.name for point in _offered(self._group, tuple(sys.path)))})

    def registered(self) -> list[str]:
        """Return the names registered in this process, in the order of registration."""
        return list(self._entries)

    def entries(self) -> list[T]:
        """Return what is registered in this process."""
        return list(self._entries.values())

    def get(self, name: str) -> T:
        """Return what ``name`` stands for: see the module's docstring.

        Raises:
            ConfigError: unknown (names the nearest), offered twice, not importable, or not of this kind.
        """
        module, colon, attribute = name.rpartition(":")
        if colon:
            return self._imported(module, attribute, f"{self._what} '{name}'")
        home = self._homes.get(name)
        points = [point for point in _offered(self._group, tuple(sys.path)) if point.name == name]
        others = [point for point in points if home is None or not _is_within(home, point.module)]
        if len(others) + (home is not None) > 1:
            values = ", ".join([*filter(None, [home]), *(point.value for point in others)])
            raise ConfigError(
                f"{self._what} '{name}' is offered more than once ({values}); remove one package, or write "
                "package.module:Name for the one you mean"
            )
        if home is not None:
            return self._entries[name]
        if others:
            point = others[0]
            return self._imported(point.module, point.attr, f"{self._what} '{name}' (entry point {point.value})")
        raise ConfigError(f"{self._what} '{name}' is unknown{nearest(name, self.names())}")

    def _imported(self, module: str, attribute: str, who: str) -> T:
        loaded = _module(module, who)
        if attribute in self._entries and _is_within(self._homes[attribute], module):
            return self._entries[attribute]
        imported = getattr(loaded, attribute, None)
        if imported is None:
            registered = [name for name, home in self._homes.items() if _is_within(home, module)]
            near = nearest(attribute, [*registered, *(name for name in vars(loaded) if not name.startswith("_"))])
            raise ConfigError(f"{who}: module '{module}' has no '{attribute}'{near}")
        entry = self._adopt(imported)
        if entry is None:
            raise ConfigError(f"{who}: '{attribute}' of module '{module}' is not {self._expected}")
        return entry


def subclass_of(base: type[Any]) -> Callable[[Any], Any]:
    """Return an ``adopt`` for classes: a subclass of ``base`` that can be made stands for itself.

    One that was registered under no name is called by its module and its own name.
    """

    def adopt(imported: Any) -> Any:
        if not isinstance(imported, type) or not issubclass(imported, base) or inspect.isabstract(imported):
            return None
        if "name" not in vars(imported):
            imported.name = f"{imported.__module__}:{imported.__qualname__}"  # type: ignore[attr-defined]
        return imported

    return adopt


def nearest(word: str, known: Iterable[str], where: str = "known") -> str:
    """Return the end of a message on an unknown ``word``: the nearest of the ``known`` ones, and which there are."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{hint} ({where}: {', '.join(names)})"


def search_path() -> str:
    """Return where this process imports from, every directory absolute: the ``PYTHONPATH`` of a process it starts.

    A module that was found beside a relative path, or in the directory where the user stands, is then found by a
    process that starts in another one.
    """
    return os.pathsep.join(dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path))


def _module(name: str, who: str) -> Any:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{who}: '{name}' is no module name; write package.module:Name")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{who}: module '{name}' cannot be imported ({error}); is it on PYTHONPATH?") from error
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{who}: module '{name}' fails while it is imported ({reason})") from error


@cache
def _offered(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of ``group`` on the import ``path``; of one package that is there twice, the first."""
    del path  # they are read again when it changes
    return tuple({(point.name, point.value): point for point in entry_points(group=group)}.values())


def _is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
