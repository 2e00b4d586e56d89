"""The attacker's worker: a process of its own that inverts captured models on the attacker's own device.

``python -m attacker.worker PLAN.json`` reads what it may know (paths of the spool, of the attacker's shard and public
set, the class count) from the plan and nothing else. It is idempotent: finished inversions are skipped, so a killed
worker is simply started again. Progress goes to standard output, one JSON object a line.

``--watch`` keeps it running beside a federation: it takes captures from the spool as they come, until the file
``PLAN.stop`` appears (no more will come: what the schedule still asks for is done, then it ends) or SIGTERM arrives (it
ends within one step, keeping what is finished). Both end with exit code 0.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from attacker.attacks.attack import Attack
from attacker.attacks.registry import make_attack
from attacker.inversion import Inversion, invert, place
from attacker.schedule import captured, due, together
from attacker.settings import Attacker
from attacker.target import PublicSet, Target, open_target
from fedinverse.config import parse
from fedinverse.data import Pool
from fedinverse.errors import FedInverseError, IntegrityError
from fedinverse.layout import ROUND_FILES
from fedinverse.machine import end_with_parent, keep_freed_memory
from fedinverse.models import claimed, is_code
from fedinverse.profiling import profiled
from fedinverse.progress import Progress, silent
from fedinverse.records import ModelFile
from fedinverse.shard import Shard, open_shard
from fedinverse.storage import read_json, read_metadata, typed, write_json
from fedinverse.words import plain

_EVERY = 1.0  # seconds between two looks at the spool


@dataclass(frozen=True)
class Check:
    """One attack on one model, beside those of the plan: what the auditor tests its own instrument with.

    Attributes:
        label: names it and the directory of its result; no attack of the plan has it.
        attack: a table as in ``attacks``.
        weights: the file to invert.
    """

    label: str
    attack: dict[str, Any]
    weights: str


@dataclass(frozen=True)
class Plan:
    """All the worker knows.

    Attributes:
        spool: directory of captures.
        controls: further weights files to invert in the same way (the auditor's control targets).
        shard: the attacker's own data directory (``images.npy``, ``labels.npy``); empty: none.
        public: path of the decoded public pool.
        classes: number of classes of the target.
        store: where inversions go.
        seed: of every random stream.
        attacker: the ``[attacker]`` table.
        attacks: the ``[attacks]`` tables by label.
        shared_classes: names of the victim's classes that the public set shows too (``data.allow_overlap``).
        checks: further single inversions, done last.
        pooled: the spools of further malicious clients, whose captures are its own too.
        model: the network of the captures, which is imported if it is code. Their metadata may come from a server: no
            other code that they name is imported.
        samples_seed: of the samples that are kept beside the inversions; None: ``seed``.
    """

    spool: str
    controls: tuple[str, ...]
    shard: str
    public: str
    classes: int
    store: str
    seed: int
    attacker: dict[str, Any]
    attacks: dict[str, dict[str, Any]]
    shared_classes: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    pooled: tuple[str, ...] = ()

    model: str = ""
    samples_seed: int | None = None

    @property
    def keeping_seed(self) -> int:
        """What the samples that are kept are drawn by."""
        return self.seed if self.samples_seed is None else self.samples_seed

    @staticmethod
    def stop(path: Path) -> Path:
        """Return the file that ends the watch of the plan at ``path``."""
        return path.with_suffix(".stop")

    def write(self, path: Path) -> None:
        """Write the plan atomically."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Plan":
        """Read a plan.

        Raises:
            IntegrityError: it is damaged, lacks a field, or names a place that no file system can have.
        """
        plan = typed(Plan, read_json(path), path)
        for where in (
            plan.spool,
            *plan.pooled,
            plan.shard,
            plan.public,
            plan.store,
            *plan.controls,
            *(check.weights for check in plan.checks),
        ):
            try:
                Path(where).exists()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise IntegrityError(f"{path} names '{where[:40]}…', which is no place for files: {reason}") from error
        return plan


@dataclass(frozen=True)
class Job:
    """One target and one attack.

    Attributes:
        weights: the target's file.
        where: the result's place.
        earlier: files of the models that are inverted together with it.
    """

    label: str
    weights: Path
    where: Inversion
    earlier: tuple[Path, ...] = ()


class Bench:
    """A plan, opened: shard, public set, attacks and the labels to invert."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settings = parse(Attacker, plan.attacker, "attacker", "plan")
        self.shard: Shard = open_shard(Path(plan.shard)) if plan.shard else Shard(torch.empty(0), torch.empty(0))
        pool = Pool(Path(plan.public))
        pool.verify()
        self.public = PublicSet.of(pool)
        self.tables = plan.attacks | {check.label: check.attack for check in plan.checks}
        self.attacks: dict[str, Attack] = {
            label: make_attack(table, f"attacks.{label}", "plan") for label, table in self.tables.items()
        }
        self.labels = labels_of(self.settings, plan.classes, self.shard)

    def jobs(self, *, over: bool = True) -> Iterator[Job]:
        """Yield every (target, attack) of the plan, done or not: scheduled captures by round, then controls.

        ``over``: see ``due``. Equal models (a world before its victim first took part) are two jobs in one place.
        """
        plan = self.plan
        spools = [Path(spool) for spool in (plan.spool, *plan.pooled) if spool]
        models = captured(*spools) if spools else {}
        for path in models.values():
            self._claims(path)  # before the schedule opens any of them
        scheduled = due(spools[0], self.settings, self.shard, over=over, pooled=spools[1:]) if spools else {}
        captures = scheduled.values()
        for weights in [*captures, *map(Path, plan.controls)]:
            for label in plan.attacks:
                earlier = together(weights, models, self.attacks[label].settings.captures)
                yield Job(label, weights, self._place(label, weights, earlier), earlier)
        for check in plan.checks:
            weights = Path(check.weights)
            yield Job(check.label, weights, self._place(check.label, weights, ()))

    def _place(self, label: str, weights: Path, earlier: tuple[Path, ...]) -> Inversion:
        plan = self.plan
        target_sha, *others = (ModelFile.read(path).sha256 for path in (weights, *earlier))
        return place(
            Path(plan.store),
            label,
            self.attacks[label],
            self.tables[label],
            target_sha,
            self.labels,
            plan.seed,
            self.public.key,
            others,
        )

    @property
    def has_priors(self) -> bool:
        """Whether every prior that needs no target is there, shipped or in the cache."""
        attacks = self.attacks.values()
        return all(each.needs.target_at_prior or each.has_prior(self.public, self.plan.seed) for each in attacks)

    def train_priors(self, progress: Callable[[str], Progress] | None = None) -> None:
        """Train the priors that need no target, into the cache, and keep samples of them.

        It is worth doing while the federation still runs. ``progress`` returns what is told of a prior's training.
        """
        device, seed = torch.device(self.settings.device), self.plan.seed
        for label, attack in self.attacks.items():
            if not attack.needs.target_at_prior:
                say = silent if progress is None else progress(f"{label}, beforehand")
                prior = attack.prior(None, self.public, seed, device, say)
                if label in self.plan.attacks:
                    prior.keep_samples(Path(self.plan.store) / label, self.plan.keeping_seed, device)

    def samples(self) -> list[Path] | None:
        """Return the files of samples that the attacks will leave; None: some prior is known only to its inversion."""
        names = {label: self.attacks[label].samples_name(self.public, self.plan.seed) for label in self.plan.attacks}
        if None in names.values():
            return None
        return sorted({Path(self.plan.store) / label / str(name) for label, name in names.items()})

    def work(self, *, over: bool = True) -> None:
        """Do the jobs that are not done, in order, and that no other worker does; wait until those are done, too.

        Of a worker that died meanwhile the job is done here.
        """
        jobs = distinct(self.jobs(over=over))
        for wait in (False, True):
            for number, job in enumerate(jobs, 1):
                if job.where.done:
                    continue
                try:
                    held = FileLock(job.where.lock).acquire(blocking=wait)
                except Timeout:
                    continue  # another worker does it
                with held:
                    if not job.where.done:
                        self._do(job, f" ({number} of {len(jobs)})" if over else "")

    def watch(self, stop: Path) -> None:
        """Do jobs as captures come; when ``stop`` exists, do what is left of the schedule and return."""
        spools, seen = [Path(spool) for spool in (self.plan.spool, *self.plan.pooled)], None
        while True:
            over = stop.exists()  # asked before the spool is looked at: no capture written before it is missed
            there = sorted(path for spool in spools for path in spool.glob(ROUND_FILES))
            if over or there != seen:
                self.work(over=over)
            if over:
                return
            seen = there
            time.sleep(_EVERY)

    def _do(self, job: Job, count: str) -> None:
        plan, target = self.plan, self._open(job)
        say = _Reporter(f"{job.label} on round {target.round}{count}", job.weights)
        attack, shared, kept = self.attacks[job.label], plan.shared_classes, plan.keeping_seed
        invert(attack, job.where, target, self.public, self.labels, plan.seed, say, shared, kept)

    def _open(self, job: Job) -> Target:
        return replace(self._model(job.weights), earlier=tuple(self._model(path) for path in job.earlier))

    def _model(self, weights: Path) -> Target:
        model, classes, width = self._claims(weights)
        return open_target(weights, model, classes, width, self.settings.device)

    def _claims(self, weights: Path) -> tuple[str, int, float]:
        """Return model, classes and width of a file; code that the plan does not name is refused."""
        model, classes, width = claimed(read_metadata(weights), str(weights))
        if is_code(model) and model != self.plan.model:
            raise IntegrityError(
                f"{weights} names the network '{plain(model)}', code to be imported, which this node's operator did "
                "not name; nothing of it is imported"
            )
        return model, classes, width


def distinct(jobs: Iterable[Job]) -> list[Job]:
    """Return the first of the ``jobs`` in every place."""
    jobs_by_place: dict[Path, Job] = {}
    for job in jobs:
        jobs_by_place.setdefault(job.where.path, job)
    return list(jobs_by_place.values())


def labels_of(settings: Attacker, classes: int, shard: Shard) -> Tensor:
    """Return the labels to invert, int64 [classes x restarts]: those asked for, or all the attacker has no image of."""
    held = set(shard.labels.tolist())
    wanted = settings.classes or tuple(label for label in range(classes) if label not in held)
    return torch.tensor(wanted, dtype=torch.int64).repeat_interleave(settings.restarts)


class _Reporter:
    """Prints progress as JSON lines, at most five a second."""

    def __init__(self, job: str, weights: Path | None = None) -> None:
        self._job, self._weights, self._last = job, str(weights or ""), 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last > 0.2:
            self._last = now
            print(
                json.dumps({"job": self._job, "weights": self._weights, "what": what, "done": done, "total": total}),
                flush=True,
            )


def main(arguments: list[str] | None = None) -> int:
    """Run a plan; return the exit code: 0 done, 2 something the operator can mend, 130 stopped by Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m attacker.worker", description="Invert captured models.")
    parser.add_argument("plan", type=Path, help="the plan, a JSON file")
    parser.add_argument("--priors", action="store_true", help="only train the priors that need no captured model")
    parser.add_argument("--watch", action="store_true", help="beside a federation: until PLAN.stop exists, or SIGTERM")
    parser.add_argument("--child", type=int, metavar="PID", help="end with process PID, which started this one")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run under cProfile and leave its rows there")
    chosen = parser.parse_args(arguments)
    if chosen.watch:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # every write is atomic: nothing half-done stays
    try:
        with profiled(chosen.profile, "attacker"):
            _run(chosen)
    except FedInverseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # of ``deploy attacker``, which becomes this process
        print("stopped; what was finished is kept, and the same command goes on with it", file=sys.stderr)
        return 130
    return 0


def _run(chosen: argparse.Namespace) -> None:
    if chosen.child is not None:
        end_with_parent(chosen.child)
    bench = Bench(Plan.read(chosen.plan))
    torch.set_num_threads(bench.settings.threads)
    keep_freed_memory()
    if chosen.priors or chosen.watch:
        bench.train_priors(_Reporter)
    if chosen.watch:
        bench.watch(Plan.stop(chosen.plan))
    elif not chosen.priors:
        bench.work()


if __name__ == "__main__":
    sys.exit(main())
