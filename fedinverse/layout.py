"""Where every file of a run directory lies, by the role that writes and reads it. Each file name stands here, once.

Each view knows its own corner of the directory and no other: ``AttackerFiles`` has no path to the split or to an image
of another client, so code that is handed one cannot open them. ``RunFiles`` is for those who hold the whole directory:
the pipeline, and the auditor.

``config.json``             the resolved configuration
``split.parquet``           the split manifest; ``pools.json``: what was asked of the data sources
``federation/<world>/``     ledger, rounds, checkpoints of one federation
``attacker/``               what the malicious clients have: spool of captures, reconstructions, control targets
``audit/``                  control targets, scores, grids;  ``verdict.json``, ``report.html``
``judge/``                  a page for people who judge, its key, and what their answers say
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

World = str
"""A federation of a run: ``with_victim``, or one that lacks the victim's images of their classes (a control world)."""

WITH_VICTIM: World = "with_victim"
WITHOUT_VICTIM: World = "without_victim"
PASSIVE: World = "with_victim-passive"  # the world with the victim, in which an active attacker trains honestly
WORLDS: tuple[World, ...] = (WITH_VICTIM, WITHOUT_VICTIM)
_CONTROL_WORLD = re.compile(rf"{WITHOUT_VICTIM}(-[1-9]\d{{0,2}})?")


def control_worlds(count: int) -> tuple[World, ...]:
    """Return the names of ``count`` control worlds: ``without_victim``, ``without_victim-1`` ...

    The first differs from the federation with the victim by their images alone. In the others everything that is drawn
    anew in a federation (initial weights, who trains, the order of images) is drawn with other seeds too.
    """
    return tuple(WITHOUT_VICTIM if number == 0 else f"{WITHOUT_VICTIM}-{number}" for number in range(count))


def is_control(world: World) -> bool:
    """Return whether ``world`` names a federation without the victim's images."""
    return _CONTROL_WORLD.fullmatch(world) is not None


def round_file(server_round: int) -> str:
    """Return the file name of the model after ``server_round``, as checkpoint and as capture."""
    return f"round-{server_round:04d}.safetensors"


ROUND_FILES = "round-*.safetensors"  # pattern of the names that ``round_file`` gives
PLAN = "plan.json"  # of an attacker's worker
# In the directory of one inversion: what it made, unoptimised samples of its prior, and its account.
RECONSTRUCTIONS, PRIOR_ONLY, ABOUT = "reconstructions.safetensors", "prior-only.safetensors", "about.json"
SWEEP = "sweep.json"  # in the directory of a sweep: its points
COMPARISON_PAGE, COMPARISON_TABLE = "compare.html", "compare.parquet"


class At:
    """A file by its name below the ``root`` of a view."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, view: Any, _: type[Any]) -> Path:
        root: Path = view.root
        return root / self._name


@dataclass(frozen=True)
class ShardFiles:
    """One client's own images, in a directory of its own."""

    root: Path

    images = At("images.npy")
    """Pixels, uint8 [N, C, H, W]."""
    labels = At("labels.npy")
    """Classes, int64 [N]; written last."""


@dataclass(frozen=True)
class ServerFiles:
    """What the server writes: everything below ``federation/``."""

    root: Path

    def federation(self, world: World) -> Path:
        """Directory of one world's federation."""
        return self.root / world

    def checkpoint(self, world: World, server_round: int) -> Path:
        """The global model after ``server_round`` (0: before training)."""
        return self.federation(world) / "checkpoints" / round_file(server_round)

    def strategy_state(self, world: World, server_round: int) -> Path:
        """What the server's optimiser remembers after ``server_round``."""
        return self.federation(world) / "checkpoints" / f"strategy-{server_round:04d}.safetensors"

    def ledger(self, world: World) -> Path:
        """What was sent to whom, one JSON line per message."""
        return self.federation(world) / "ledger.jsonl"

    def rounds(self, world: World) -> Path:
        """Utility per round, one JSON line each."""
        return self.federation(world) / "rounds.jsonl"

    def client_reports(self, world: World) -> Path:
        """What the clients said of their training, one JSON line per client and round."""
        return self.federation(world) / "clients.jsonl"

    def updates(self, world: World) -> Path:
        """What the server noted of every update, one JSON line each; only with ``federation.watch_updates``."""
        return self.federation(world) / "updates.jsonl"

    def privacy(self, world: World) -> Path:
        """Differential privacy spent, per client."""
        return self.federation(world) / "privacy.json"


@dataclass(frozen=True)
class AttackerFiles:
    """What the malicious clients have: everything below ``attacker/``."""

    root: Path

    def spool(self, world: World) -> Path:
        """Where the capture mod stores what it receives."""
        return self.root / world / "captures"

    def accomplice_spool(self, world: World, client: int) -> Path:
        """Where a further malicious client of a deployment stores what it receives: it has a directory of its own."""
        return self.root / world / f"captures-{client:02d}"

    def active(self, world: World) -> Path:
        """Where active participants keep what they remember between rounds."""
        return self.root / world / "active"

    @property
    def shard(self) -> ShardFiles:
        """The attackers' own images."""
        return ShardFiles(self.root / "shard")

    plan = At(PLAN)
    """All that the worker knows."""
    inversions = At("inversions")
    """Reconstructions, one directory per attack and target."""
    updates = At("updates")
    """Inverted updates, one directory each."""

    @property
    def index(self) -> Path:
        """Which inversion belongs to which attack and target."""
        return self.inversions / "index.json"


def spools_of(files: AttackerFiles, world: World) -> tuple[Path, ...]:
    """Return the spools that the malicious clients of ``world`` pool, the first one's first, whether it is there."""
    first = files.spool(world)
    return first, *sorted(path for path in first.parent.glob(f"{first.name}-*") if path.is_dir())


def replies_of(spool: Path) -> Path:
    """Return the directory of what the node of ``spool`` itself sent back."""
    return spool / "replies"


def receipts_of(spool: Path) -> Path:
    """Return the file that has one JSON line per message that came to ``spool``."""
    return spool / "receipts.jsonl"


@dataclass(frozen=True)
class AuditorFiles:
    """What the auditor writes: everything below ``audit/``."""

    root: Path

    scores = At("scores.parquet")
    """The tidy score table, parquet."""
    leakage = At("leakage.parquet")
    """The verdict's figures as a table, parquet."""
    summary = At("summary.json")
    """What the audit was made of; written last."""
    updates_picture = At("updates.png")
    """Images from an inverted update beside the private images they were matched to."""

    def answer(self, question: str) -> Path:
        """The answer to one of the questions beside the verdict's own."""
        return self.root / "answers" / f"{question}.json"

    canaries = At("canaries.json")
    """What the planted canaries show of epsilon."""
    membership = At("membership.json")
    """What membership scores say, with their controls."""
    membership_scores = At("membership.parquet")
    """Every candidate's scores, parquet."""
    active = At("active.json")
    """What an active participant won, and what the server could see of it."""

    def active_picture(self, world: World) -> Path:
        """Samples of an active participant's generator in ``world``."""
        return self.root / "grids" / f"active-{world}.png"

    def grid(self, attack: str, arm: str, server_round: int, world: World = WITH_VICTIM) -> Path:
        """Picture of one arm's reconstructions beside the nearest private images; arm T1 is no attack's."""
        label = f"{attack}-{arm}" if attack else arm
        further = "" if world in WORLDS else f"-{world}"
        return self.root / "grids" / f"{label}-round-{server_round:04d}{further}.png"

    def own_shard_model(self, key: str) -> Path:
        """The control target of arm B3, a model of the attacker's own shard alone; ``key``: of what it depends on."""
        return self.root / "controls" / f"own-shard-{key}.safetensors"

    targets = At("targets.json")
    """Which model belongs to which arm."""


@dataclass(frozen=True)
class SheetFiles:
    """A sheet for people to judge: a directory of its own, below the run or elsewhere."""

    root: Path

    page = At("judge.html")
    """The page that people are given; holds no answer."""
    key = At("key.json")
    """What each of its images is."""
    images = At("images.safetensors")
    """The images as they are shown, for programs that judge; safetensors."""
    reading = At("people.json")
    """What the answers say."""


@dataclass(frozen=True)
class RunFiles:
    """A whole run directory."""

    root: Path

    config = At("config.json")
    """The resolved configuration; a directory without it is no run."""
    amendments = At("amendments.jsonl")
    """What was changed of the configuration after the federation had begun, one JSON line per change."""
    provenance = At("provenance.json")
    """When the run began, and with which versions."""
    split = At("split.parquet")
    """The split manifest."""
    pools = At("pools.json")
    """What was asked of the data sources; written last when a run is prepared."""
    nodes = At("nodes.json")
    """Which node id is which partition; only where somebody registered nodes."""
    verdict = At("verdict.json")
    """The auditor's verdict."""
    report = At("report.html")
    """The page about the run."""
    times = At("times.json")
    """Seconds by stage."""
    profile = At("profile.json")
    """Where the time went, by function."""
    log = At("log.jsonl")
    """Every event as one JSON line."""
    partition_picture = At("partition.png")
    """Who holds which class, as a picture."""
    partition_table = At("partition.csv")
    """Who holds which class, as a table."""

    @property
    def sheet(self) -> SheetFiles:
        """What people are asked to judge."""
        return SheetFiles(self.root / "judge")

    @property
    def server(self) -> ServerFiles:
        """The server's files."""
        return ServerFiles(self.root / "federation")

    @property
    def attacker(self) -> AttackerFiles:
        """The malicious clients' files."""
        return AttackerFiles(self.root / "attacker")

    @property
    def auditor(self) -> AuditorFiles:
        """The auditor's files."""
        return AuditorFiles(self.root / "audit")


def is_run(directory: Path) -> bool:
    """Return whether ``directory`` holds a run."""
    return RunFiles(directory).config.is_file()
