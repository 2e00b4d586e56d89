"""An experiment on disk: its configuration, split and images; where its files lie says ``fedinverse.layout``."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedinverse.canaries import Canaries, plant
from fedinverse.class_lists import names_numbered
from fedinverse.config import Data, Model, Population, S, Split, parse
from fedinverse.data import Pool, Request, located, open_source
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.layout import PASSIVE, WITH_VICTIM, WORLDS, RunFiles, World, is_control, is_run
from fedinverse.models import Classifier, build, spec_of, why_not
from fedinverse.models.published import start_from
from fedinverse.overlap import check_disjoint
from fedinverse.progress import Progress, silent
from fedinverse.records import RoundLine, read_lines
from fedinverse.seeds import derive
from fedinverse.split import held_by, make_split
from fedinverse.storage import (
    append_jsonl,
    content_sha256,
    into_module,
    load_weights,
    read_hashed,
    read_object,
    save_hashed,
    typed,
    write_json,
)
from fedinverse.tables import Table


@dataclass(frozen=True)
class Run:
    """An experiment on disk. Everything is read lazily and once per process."""

    path: Path

    @property
    def files(self) -> RunFiles:
        """Where everything lies."""
        return RunFiles(self.path)

    @cached_property
    def table(self) -> Table:
        """The resolved configuration as plain tables."""
        path = self.files.config
        if not path.exists():
            raise StageError(f"{self.path} is not a run directory: it has no config.json")
        table = read_object(path, "seed")
        if not isinstance(table["seed"], int):
            raise IntegrityError(f"{path}: 'seed' is {table['seed']!r}, no whole number")
        return table

    def section(self, name: str, kind: type[S]) -> S:
        """Return the section ``name`` parsed as ``kind``; its defaults when the file has none."""
        return parse(kind, self.table.get(name) or {}, name, str(self.files.config))

    @property
    def seed(self) -> int:
        """The run seed, from which every random stream derives."""
        return int(self.table["seed"])

    @property
    def data_seed(self) -> int:
        """What its images and their parts are drawn by: the run seed, unless ``data.seed`` says another."""
        return self.section("data", Data).drawn_by(self.seed)

    @cached_property
    def population(self) -> Population:
        """Clients, victim, attackers."""
        return self.section("population", Population)

    @cached_property
    def model(self) -> Model:
        """The global model's name and width."""
        return self.section("model", Model)

    @property
    def about_model(self) -> dict[str, str | int | float]:
        """What the metadata of its models' files say of the network."""
        return {"model": self.model.name, "width": self.model.width, "classes": len(self.class_names)}

    @cached_property
    def split(self) -> pd.DataFrame:
        """The split manifest; columns ``row``, ``sha256``, ``label``, ``part``, ``client``."""
        path = self.files.split
        try:
            return pd.read_parquet(io.BytesIO(read_hashed(path)))
        except (ValueError, OSError) as error:  # pyarrow's errors are one or the other
            raise IntegrityError(f"{path}: not a readable parquet file ({error})") from error

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """The decoded ``private`` and ``public`` images; decoded again when the cache was cleared."""
        path = self.files.pools
        read_hashed(path)
        return {
            name: open_source(typed(Request, asked, path))
            for name, asked in read_object(path, "private", "public").items()
        }

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the private classes, which every participant knows."""
        return self.pools["private"].class_names

    @cached_property
    def victim_classes(self) -> tuple[int, ...]:
        """The classes that the verdict speaks of: the victim's alone, or all of which they hold an image; or none."""
        if not self.population.shares_classes:
            return self.population.victim_classes
        held = self.split.loc[held_by(self.split, self.population.victim), "label"]
        return tuple(sorted({int(label) for label in held}))

    @property
    def worlds(self) -> tuple[World, ...]:
        """The federations that this run has begun: the one with the victim first, then control worlds in order."""
        there = {path.name for path in self.files.server.root.glob("*") if path.is_dir()}
        controls = sorted(filter(is_control, there), key=lambda world: (len(world), world))
        return tuple(world for world in (WITH_VICTIM, *controls) if world in there)

    @property
    def control_worlds(self) -> tuple[World, ...]:
        """The control worlds among ``worlds``."""
        return tuple(filter(is_control, self.worlds))

    def seed_of(self, world: World) -> int:
        """Return the seed of everything that is drawn in the federation of ``world``.

        The first control world shares that of the world with the victim, so that the two differ by the victim alone.
        """
        return self.seed if world in (*WORLDS, PASSIVE) else derive(self.seed, "world", world) % 2**31

    def recorded_rounds(self, world: World) -> list[RoundLine]:
        """Return the recorded rounds in order; of a round recorded twice (a resume), the later line."""
        return list({line.round: line for line in read_lines(RoundLine, self.files.server.rounds(world))}.values())

    def last_round(self, world: World) -> int:
        """Return the last recorded round of ``world``; -1: none was begun."""
        return max((line.round for line in self.recorded_rounds(world)), default=-1)

    def known_at(self, rounds: Iterable[int]) -> dict[int, float]:
        """Return the global model's accuracy on the victim's reserve images in the world with the victim, by round.

        Raises:
            IntegrityError: one of ``rounds``, which were inverted, is not recorded any more; names the file.
        """
        lines = {line.round: line for line in self.recorded_rounds(WITH_VICTIM)}
        lost = sorted({int(number) for number in rounds} - lines.keys())
        if lost:
            raise IntegrityError(
                f"{self.files.server.rounds(WITH_VICTIM)}: has no line of round {lost[0]}, which was inverted; it was "
                "altered, run the experiment again under another name"
            )
        return {number: line.victim_accuracy for number, line in lines.items() if line.victim_accuracy is not None}

    def network_of(self, weights: Path) -> Classifier:
        """Return the global model with the ``weights`` of a file.

        Raises:
            IntegrityError: the file is damaged or of another network; names it.
        """
        network = build(self.model.name, len(self.class_names), self.model.width, seed=0)
        into_module(network, load_weights(weights)[0], str(weights))
        return network

    def initial_network(self, world: World = WITH_VICTIM) -> Classifier:
        """Return the global model of round 0: drawn with the world's seed, or started from ``model.weights``.

        Raises:
            IntegrityError: that file is unreadable, altered or of another network.
        """
        network = build(
            self.model.name, len(self.class_names), self.model.width, derive(self.seed_of(world), "global model")
        )
        if self.model.weights:
            start_from(network, self.model.name, Path(self.model.weights))
        return network


def check_fresh(path: Path, name: str, *, resume: bool) -> None:
    """Raise ``ConfigError`` if a run is there that was not asked to be gone on with; ``name``: how to name another."""
    if is_run(path) and not resume:
        raise ConfigError(f"{path} exists already; continue it with --resume, or choose another {name} or --out")


def gone_on_with(files: RunFiles, table: Table, name: str, said: str, *, resume: bool) -> Run | None:
    """Return the run in ``files`` if it is whole; None: it has to be made.

    Args:
        table: its configuration, but for the population.
        name: how the user names another one.
        said: what the configuration is, where it differs.

    Raises:
        ConfigError: it is there and may not, or has another configuration.
    """
    check_fresh(files.root, name, resume=resume)
    if not files.config.exists():
        return None
    changed = differences(
        {key: value for key, value in read_object(files.config).items() if key != "population"}, table
    )
    if changed:
        raise ConfigError(
            f"{files.root} was started with {said} (differs in {', '.join(changed[:5])}); choose another "
            f"{name} or --out"
        )
    return Run(files.root) if files.pools.exists() else None


# Sections of stages after the federation, whose products are keyed by them.
LATER = ("attacks", "attacker", "audit", "updates", "membership")


def prepare(path: Path, table: Table, complete: Callable[[Table], Table] = dict, progress: Progress = silent) -> Run:
    """Make the run directory ``path`` for the configuration ``table``: decode data, split, write the manifest.

    Preparing again with the same configuration changes nothing. What only later stages read (``LATER``) may change;
    once the federation has begun, that is written down. Any other change is refused.

    Args:
        complete: writes out the defaults of keys that an older version, which made the directory, did not know yet.
        progress: told about long work.

    Raises:
        ConfigError: impossible values, or another configuration stands there already.
        DataError: a source is absent.
    """
    files = RunFiles(path)
    stored = files.config
    origin = str(stored)
    data = parse(Data, table.get("data", {}), "data", origin)
    split = parse(Split, table.get("split", {}), "split", origin)
    model = parse(Model, table.get("model", {}), "model", origin)
    prepared = stored.exists() and files.pools.exists()
    seed, shape = int(table["seed"]), spec_of(model.name).input_shape
    wanted = {} if prepared else {name: located(request) for name, request in requests_of(data, shape, seed).items()}
    pools = Run(path).pools if prepared else {name: open_source(request) for name, request in wanted.items()}
    for pool in pools.values():
        pool.verify()
    table = names_numbered(table, pools["private"].class_names)
    if stored.exists():
        before = read_object(stored)
        differing = differences(complete(before), table)
        locked = [key for key in differing if key.split(".")[0] not in LATER]
        if locked:
            raise ConfigError(
                f"{path} holds another configuration (differs in {', '.join(locked[:5])}); only {', '.join(LATER)} may "
                "change in a run that exists: choose another --out or name, or delete it"
            )
        if differing:
            amend(files, differing, table)
        elif differences(before, table):
            write_json(stored, table)
        if prepared:
            return Run(path)
    population = parse(Population, table.get("population", {}), "population", origin)
    manifest = make_split(pools["private"], split, population, seed, data.drawn_by(seed))
    pictures = (
        manifest.loc[held_by(manifest, population.victim), "row"].to_numpy() if population.shares_classes else None
    )
    if table.get("canaries") is not None:
        canaries = parse(Canaries, table["canaries"], "canaries", origin)
        manifest = plant(manifest, canaries, population, len(pools["private"].class_names), seed)
    check_disjoint(pools["private"], pools["public"], population, pictures, allow=data.allow_overlap, progress=progress)
    check_trainable(model, population, manifest)
    return write_run(files, table, manifest, wanted)


def write_run(files: RunFiles, table: Table, manifest: pd.DataFrame, requests: Mapping[str, Request]) -> Run:
    """Write what makes a directory a run: configuration, split manifest, and what ``private`` and ``public`` are."""
    write_json(files.config, table)
    save_hashed(files.split, manifest.to_parquet(index=False))
    asked = json.dumps({name: asdict(request) for name, request in requests.items()}, indent=2, sort_keys=True)
    save_hashed(files.pools, asked.encode())  # last: a run without them is prepared again
    return Run(files.root)


def amend(files: RunFiles, keys: list[str], table: Table) -> None:
    """Store the configuration ``table``; that ``keys`` of it changed is written down once the federation has begun."""
    if files.server.rounds(WITH_VICTIM).exists():  # from now on somebody may have seen what comes out
        append_jsonl(files.amendments, {"keys": keys, "time": datetime.now(UTC).isoformat(timespec="seconds")})
    write_json(files.config, table)


def requests_of(data: Data, shape: tuple[int, int, int], seed: int) -> dict[str, Request]:
    """Return what a run of ``seed`` asks of its ``private`` and its ``public`` source."""
    drawn = data.drawn_by(seed)
    return {
        "private": Request(data.private, shape, data.private_root, data.private_limit, drawn, data.fit),
        "public": Request(data.public, shape, data.public_root, data.public_limit, drawn, data.fit),
    }


def check_trainable(model: Model, population: Population, manifest: pd.DataFrame) -> None:
    """Refuse clients who could never train: with a single image, where the network needs two (BatchNorm does)."""
    single = [client for client in range(population.clients) if int(held_by(manifest, client).sum()) == 1]
    if population.has_victim:  # in the world without the victim they have the images of their other classes alone
        others = ~manifest["label"].isin(population.victim_classes).to_numpy(bool)
        left = int((held_by(manifest, population.victim) & others).sum())
        single += [population.victim] if left == 1 and population.victim not in single else []
    reason = why_not(model.name, model.width, 1) if single else ""
    if reason:
        raise ConfigError(
            f"clients {', '.join(map(str, single[:5]))} would hold a single image each, and model '{model.name}' "
            f"cannot train on one ({reason}); lower population.clients, change population.partition, or choose a model "
            "without BatchNorm, such as mcnn_gn"
        )


def differences(old: Table, new: Table, prefix: str = "") -> list[str]:
    """Return the dotted keys in which two configurations differ."""
    keys: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a: Any = old.get(key)
        b: Any = new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += differences(a, b, f"{prefix}{key}.")
        elif content_sha256(a) != content_sha256(b):
            keys.append(f"{prefix}{key}")
    return keys
