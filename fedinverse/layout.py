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


@dataclass(frozen=True)
class ShardFiles:
    """One client's own images, in a directory of its own."""

    root: Path

    @property
    def images(self) -> Path:
        """Pixels, uint8 [N, C, H, W]."""
        return self.root / "images.npy"

    @property
    def labels(self) -> Path:
        """Classes, int64 [N]; written last."""
        return self.root / "labels.npy"


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

    @property
    def plan(self) -> Path:
        """All that the worker knows."""
        return self.root / PLAN

    @property
    def inversions(self) -> Path:
        """Reconstructions, one directory per attack and target."""
        return self.root / "inversions"

    @property
    def updates(self) -> Path:
        """Inverted updates, one directory each."""
        return self.root / "updates"

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

    @property
    def scores(self) -> Path:
        """The tidy score table, parquet."""
        return self.root / "scores.parquet"

    @property
    def leakage(self) -> Path:
        """The verdict's figures as a table, parquet."""
        return self.root / "leakage.parquet"

    @property
    def summary(self) -> Path:
        """What the audit was made of; written last."""
        return self.root / "summary.json"

    @property
    def updates_picture(self) -> Path:
        """Images from an inverted update beside the private images they were matched to."""
        return self.root / "updates.png"

    def answer(self, question: str) -> Path:
        """The answer to one of the questions beside the verdict's own."""
        return self.root / "answers" / f"{question}.json"

    @property
    def canaries(self) -> Path:
        """What the planted canaries show of epsilon."""
        return self.root / "canaries.json"

    @property
    def membership(self) -> Path:
        """What membership scores say, with their controls."""
        return self.root / "membership.json"

    @property
    def membership_scores(self) -> Path:
        """Every candidate's scores, parquet."""
        return self.root / "membership.parquet"

    @property
    def active(self) -> Path:
        """What an active participant won, and what the server could see of it."""
        return self.root / "active.json"

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

    @property
    def targets(self) -> Path:
        """Which model belongs to which arm."""
        return self.root / "targets.json"


@dataclass(frozen=True)
class SheetFiles:
    """A sheet for people to judge: a directory of its own, below the run or elsewhere."""

    root: Path

    @property
    def page(self) -> Path:
        """The page that people are given; holds no answer."""
        return self.root / "judge.html"

    @property
    def key(self) -> Path:
        """What each of its images is."""
        return self.root / "key.json"

    @property
    def images(self) -> Path:
        """The images as they are shown, for programs that judge; safetensors."""
        return self.root / "images.safetensors"

    @property
    def reading(self) -> Path:
        """What the answers say."""
        return self.root / "people.json"


@dataclass(frozen=True)
class RunFiles:
    """A whole run directory."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; a directory without it is no run."""
        return self.root / "config.json"

    @property
    def amendments(self) -> Path:
        """What was changed of the configuration after the federation had begun, one JSON line per change."""
        return self.root / "amendments.jsonl"

    @property
    def provenance(self) -> Path:
        """When the run began, and with which versions."""
        return self.root / "provenance.json"

    @property
    def split(self) -> Path:
        """The split manifest."""
        return self.root / "split.parquet"

    @property
    def pools(self) -> Path:
        """What was asked of the data sources; written last when a run is prepared."""
        return self.root / "pools.json"

    @property
    def nodes(self) -> Path:
        """Which node id is which partition; only where somebody registered nodes."""
        return self.root / "nodes.json"

    @property
    def verdict(self) -> Path:
        """The auditor's verdict."""
        return self.root / "verdict.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.root / "report.html"

    @property
    def times(self) -> Path:
        """Seconds by stage."""
        return self.root / "times.json"

    @property
    def profile(self) -> Path:
        """Where the time went, by function."""
        return self.root / "profile.json"

    @property
    def log(self) -> Path:
        """Every event as one JSON line."""
        return self.root / "log.jsonl"

    @property
    def partition_picture(self) -> Path:
        """Who holds which class, as a picture."""
        return self.root / "partition.png"

    @property
    def partition_table(self) -> Path:
        """Who holds which class, as a table."""
        return self.root / "partition.csv"

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
