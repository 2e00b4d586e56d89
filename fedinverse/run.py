"""The run directory: what an experiment reads and writes, and nothing else.

``config.json``             the resolved configuration
``split.parquet``           the split manifest; ``pools.json``: what was asked of the data sources
``federation/<world>/``     ledger, rounds, checkpoints of one federation
``attacker/``               what the malicious clients have: spool of captures, reconstructions, control targets
``audit/``                  scores, grids, verdict;  ``report.html``
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fedinverse.config import Data, Model, Population, S, Split, Table, parse
from fedinverse.data import Pool, Request, open_source
from fedinverse.errors import ConfigError, StageError
from fedinverse.models import spec_of
from fedinverse.split import make_split
from fedinverse.storage import content_sha256, read_json, read_jsonl, write_json

World = Literal["with_victim", "without_victim"]
WORLDS: tuple[World, ...] = ("with_victim", "without_victim")


@dataclass(frozen=True)
class Run:
    """An experiment on disk. Everything is read lazily and once per process."""

    path: Path

    @cached_property
    def table(self) -> Table:
        """The resolved configuration as plain tables."""
        path = self.path / "config.json"
        if not path.exists():
            raise StageError(f"{self.path} is not a run directory: it has no config.json")
        return read_json(path)  # type: ignore[no-any-return]

    def section(self, name: str, kind: type[S]) -> S:
        """Return the section ``name`` parsed as ``kind``; its defaults when the file has none."""
        return parse(kind, self.table.get(name, {}), name, str(self.path / "config.json"))

    @property
    def seed(self) -> int:
        """The run seed, from which every random stream derives."""
        return int(self.table["seed"])

    @cached_property
    def population(self) -> Population:
        """Clients, victim, attackers."""
        return self.section("population", Population)

    @cached_property
    def model(self) -> Model:
        """The global model's name and width."""
        return self.section("model", Model)

    @cached_property
    def split(self) -> pd.DataFrame:
        """The split manifest; columns ``row``, ``sha256``, ``label``, ``part``, ``client``."""
        return pd.read_parquet(self.path / "split.parquet")

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """The decoded ``private`` and ``public`` images; decoded again when the cache was cleared."""
        requests = read_json(self.path / "pools.json")
        return {
            name: open_source(Request(**{**asked, "shape": tuple(asked["shape"])})) for name, asked in requests.items()
        }

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the private classes, which every participant knows."""
        return self.pools["private"].class_names

    def federation(self, world: World) -> Path:
        """Directory of one world's federation."""
        return self.path / "federation" / world

    def checkpoint(self, world: World, server_round: int) -> Path:
        """The server's global model after ``server_round`` (0: before training)."""
        return self.federation(world) / "checkpoints" / f"round-{server_round:04d}.safetensors"

    def ledger(self, world: World) -> Path:
        """The server's record of what was sent to whom."""
        return self.federation(world) / "ledger.jsonl"

    def rounds(self, world: World) -> Path:
        """Utility per round, one JSON line each."""
        return self.federation(world) / "rounds.jsonl"

    def recorded_rounds(self, world: World) -> list[dict[str, Any]]:
        """Return the recorded rounds in order; of a round recorded twice (a resume), the later line."""
        return list({line["round"]: line for line in read_jsonl(self.rounds(world))}.values())

    def spool(self, world: World) -> Path:
        """Where the malicious clients' capture mod stores what it receives."""
        return self.path / "attacker" / world / "captures"

    @property
    def inversions(self) -> Path:
        """Reconstructions, one directory per attack and target."""
        return self.path / "attacker" / "inversions"

    @property
    def audit(self) -> Path:
        """The auditor's tables, grids and verdict."""
        return self.path / "audit"


def prepare(path: Path, table: Table) -> Run:
    """Make the run directory ``path`` for the configuration ``table``: decode data, split, write the manifest.

    Preparing again with the same configuration changes nothing; with another one it is refused.

    Raises:
        ConfigError: impossible values, or another configuration stands there already.
        DataError: a source is absent.
    """
    stored = path / "config.json"
    if stored.exists():
        differing = _differences(read_json(stored), table)
        if differing:
            raise ConfigError(
                f"{path} holds another configuration (differs in {', '.join(differing[:5])}); "
                "choose another --out or name, or delete it"
            )
        if (path / "pools.json").exists():
            return Run(path)
    origin = str(stored)
    data = parse(Data, table.get("data", {}), "data", origin)
    split = parse(Split, table.get("split", {}), "split", origin)
    population = parse(Population, table.get("population", {}), "population", origin)
    model = parse(Model, table.get("model", {}), "model", origin)
    seed = int(table["seed"])
    shape = spec_of(model.name).input_shape
    wanted = {
        "private": Request(data.private, shape, data.private_root, data.private_limit, seed),
        "public": Request(data.public, shape, data.public_root, data.public_limit, seed),
    }
    private, public = (open_source(request) for request in wanted.values())
    manifest = make_split(private, split, population, seed)
    check_disjoint(private, public, population, allow=data.allow_overlap)
    write_json(stored, table)
    manifest.to_parquet(path / "split.parquet", index=False)
    write_json(path / "pools.json", {name: asdict(request) for name, request in wanted.items()})  # last
    return Run(path)


def check_disjoint(private: Pool, public: Pool, population: Population, *, allow: bool) -> None:
    """Refuse a public set that shows a class of the victim, unless ``allow``."""
    victim = {private.class_names[label] for label in population.victim_classes}
    shared = sorted(victim & set(public.class_names))
    if shared and not allow:
        raise ConfigError(
            f"data.public shares the classes {', '.join(shared)} with the victim: what the attacker shows could be "
            "his own. Choose another public source, or set data.allow_overlap = true to have every output marked"
        )


def _differences(old: Table, new: Table, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a: Any = old.get(key)
        b: Any = new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif content_sha256(a) != content_sha256(b):
            found.append(f"{prefix}{key}")
    return found
