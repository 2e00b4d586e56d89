"""Mutated configs for ``benchmarks/fuzz.py``: wrong values, misspelt keys, missing and surplus ones, broken TOML."""

import copy
import math
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from fedinverse.errors import FedInverseError
from fedinverse.house import CONFIGS
from fedinverse.storage import content_sha256
from fedinverse.tables import laid_over
from pipeline.experiment import load_experiment, resolved

VALUES: list[Any] = [
    0, 1, -1, 2, 3, 10**6, 2**31, 2**63 - 1, -(2**63), 0.0, 0.5, -0.5, 1.0, 1e-300, 1e300, math.inf,
    -math.inf, math.nan, True, False, "", " ", "a", "mnist", "glyphs", "mcnn", "gmi", "vmi", "2 GB", "last", "../x",
    "a/b", "every", "\x00", "ü" * 50, "x" * 5000, [], [0], [0, 0], [0, 1, 2], [-1], [10**9], ["a"], [[0]], [0.5],
    {}, {"a": 1}, [{}],
]  # fmt: skip
_TOKENS = ["=", "[", "]", "[[", "]]", '"', "'", '"""', "\n", ".", ",", "{", "}", "#", "\\", "\x00", "é", "= 1", "inf",
           "1979-05-27", "0x", "true", "[data]", "[attacks]", 'extends = "quickstart"\n', "[[cohorts]]\n"]  # fmt: skip


def config_case(number: int, seed: int) -> tuple[bytes, list[str]]:
    """Return the text of a mutated config, and command-line assignments."""
    chance = random.Random(f"{seed}/config/{number}")
    base = chance.choice(sorted(CONFIGS.glob("*.toml")))
    if chance.random() < 0.3:
        return mutated_bytes(base.read_bytes(), chance, _TOKENS), []
    table = tomllib.loads(base.read_text())
    if "extends" in table and chance.random() < 0.8:
        table = laid_over(tomllib.loads((CONFIGS / "quickstart.toml").read_text()), table)
        del table["extends"]
    assignments = []
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        if chance.random() < 0.3:
            assignments.append(_assignment(table, chance))
        else:
            mutate_table(table, chance)
    return tomli_w.dumps(table).encode(), assignments


def _places(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = table.items() if isinstance(table, dict) else enumerate(table)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


def mutate_table(table: dict[str, Any], chance: random.Random) -> None:
    """Change one place of ``table``: its value, its name, or whether it is there."""
    places = list(_places(table))
    if not places:
        return
    *above, last = chance.choice(places)
    parent: Any = table
    for key in above:
        parent = parent[key]
    what = chance.choice(["value", "value", "value", "delete", "rename", "add", "swap", "scale"])
    if what == "delete":
        del parent[last]
    elif what == "rename" and isinstance(parent, dict):
        parent[_misspelt(str(last), chance)] = parent.pop(last)
    elif what == "add" and isinstance(parent, dict):
        parent[_misspelt(str(last), chance)] = copy.deepcopy(chance.choice(VALUES))
    elif what == "swap":
        *other, name = chance.choice(places)
        place: Any = table
        for key in other:
            place = place[key]
        parent[last] = place[name] if not isinstance(place[name], dict | list) else "swapped"
    elif what == "scale" and isinstance(parent[last], int | float):
        parent[last] = parent[last] * chance.choice([-1, 0.5, 2, 10, 1000])
    else:
        parent[last] = copy.deepcopy(chance.choice(VALUES))


def _misspelt(key: str, chance: random.Random) -> str:
    at = chance.randrange(len(key) + 1)
    return key[:at] + chance.choice(["", "x", "_", " ", ".", "é"]) + key[at + chance.randrange(2) :]


def _assignment(table: dict[str, Any], chance: random.Random) -> str:
    key = ".".join(map(str, chance.choice(list(_places(table)))))
    text = f"{key}={chance.choice(VALUES)}"
    return text if chance.random() < 0.7 else mutated_bytes(text.encode(), chance, _TOKENS).decode(errors="replace")


def check_config(scratch: Path, text: bytes, assignments: list[str]) -> str:
    """Load the config; return ``refused`` or ``accepted``; raise ``AssertionError`` for a silent change."""
    path = scratch / "case.toml"
    path.write_bytes(text)
    try:
        table = resolved(load_experiment(str(path), assignments, scratch / "runs"))
    except FedInverseError:
        return "refused"
    written = scratch / "again.toml"
    written.write_text(tomli_w.dumps(_without_none(table)))
    again = resolved(load_experiment(str(written), [], scratch / "runs"))
    assert content_sha256(again) == content_sha256(table), "the resolved config, read again, says something else"
    return "accepted"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def mutated_bytes(raw: bytes, chance: random.Random, tokens: list[str] | None = None) -> bytes:
    """Return ``raw`` with one to four wounds: flipped bits, cuts, runs of zeros, copies, insertions."""
    data = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(data) + 1)
        # Half of the wounds into the first kilobyte: headers are where formats break.
        at = at % 1024 if chance.random() < 0.5 else at
        length = min(chance.choice([1, 1, 2, 8, 64, 1000]), max(len(data) - at, 0))
        what = chance.choice(["flip", "flip", "flip", "cut", "zero", "copy", "insert", "delete", "random"])
        if what == "flip" and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif what == "cut":
            del data[at:]
        elif what == "zero":
            data[at : at + length] = bytes(length)
        elif what == "copy":
            data[at:at] = data[at : at + length]
        elif what == "delete":
            del data[at : at + length]
        elif what == "insert" and tokens:
            data[at:at] = chance.choice(tokens).encode()
        else:
            data[at : at + length] = chance.randbytes(length)
    return bytes(data)
