"""The attacker's worker: a process of its own that inverts captured models on the attacker's own device.

``python -m attacker.worker PLAN.json`` reads what it may know (paths of the spool, of the attacker's shard and public
set, the class count) from the plan and nothing else. It is idempotent: finished inversions are skipped, so a killed
worker is simply started again. Progress goes to standard output, one JSON object a line.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacker.attack import Attack, PublicSet, open_target
from attacker.inversion import Inversion, invert, place
from attacker.registry import make_attack
from attacker.schedule import due
from attacker.settings import Attacker
from fedinverse.config import parse
from fedinverse.data import Pool
from fedinverse.errors import FedInverseError, IntegrityError
from fedinverse.shard import Shard, open_shard
from fedinverse.storage import read_json, read_metadata, write_json


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

    def write(self, path: Path) -> None:
        """Write the plan atomically."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Plan":
        """Read a plan.

        Raises:
            IntegrityError: it is damaged or lacks a field.
        """
        table = read_json(path)
        try:
            return Plan(**table | {"controls": tuple(table["controls"])})
        except (TypeError, KeyError) as error:
            raise IntegrityError(f"{path}: not a worker's plan ({error})") from error


@dataclass(frozen=True)
class Job:
    """One target and one attack."""

    label: str
    weights: Path
    where: Inversion


class Bench:
    """A plan, opened: shard, public set, attacks and the labels to invert."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.settings = parse(Attacker, plan.attacker, "attacker", "plan")
        self.shard: Shard = open_shard(Path(plan.shard)) if plan.shard else Shard(torch.empty(0), torch.empty(0))
        pool = Pool(Path(plan.public))
        self.public = PublicSet(pool.tensor(), Path(plan.public).name)
        self.attacks: dict[str, Attack] = {
            label: make_attack(table, f"attacks.{label}", "plan") for label, table in plan.attacks.items()
        }
        self.labels = labels_of(self.settings, plan.classes, self.shard)

    def jobs(self) -> Iterator[Job]:
        """Yield every (target, attack) of the plan, done or not: scheduled captures, then controls."""
        plan = self.plan
        captures = due(Path(plan.spool), self.settings, self.shard).values() if plan.spool else ()
        for weights in [*captures, *map(Path, plan.controls)]:
            for label in plan.attacks:
                yield Job(label, weights, self.place(label, read_metadata(weights).get("sha256", "")))

    def place(self, label: str, target_sha: str) -> Inversion:
        """Return where the inversion of that target by that attack lies."""
        plan = self.plan
        return place(Path(plan.store), label, plan.attacks[label], target_sha, self.labels, plan.seed, self.public.key)

    def train_priors(self) -> None:
        """Train the priors that need no target, into the cache: worth doing while the federation still runs."""
        device = torch.device(self.settings.device)
        for label, attack in self.attacks.items():
            if not attack.needs.target_at_prior:
                attack.prior(None, self.public, self.plan.seed, device, _Reporter(f"{label}, beforehand"))

    def work(self, share: int = 0, of: int = 1) -> None:
        """Do the jobs that are not done, in order; with ``of`` workers side by side, every ``of``-th from ``share``."""
        # Shares are of all jobs, done or not: every worker counts the same list, whenever it starts.
        every = list({job.where.path: job for job in self.jobs()}.values())
        for number, job in list(enumerate(every, 1))[share::of]:
            if job.where.done:
                continue
            about = read_metadata(job.weights)
            target = open_target(
                job.weights,
                about["model"],
                int(about["classes"]),
                float(about["width"]),
                self.settings.device,
            )
            say = _Reporter(f"{job.label} on round {target.round} ({number} of {len(every)})")
            invert(self.attacks[job.label], job.where, target, self.public, self.labels, self.plan.seed, say)


def labels_of(settings: Attacker, classes: int, shard: Shard) -> Tensor:
    """Return the labels to invert, int64 [classes x restarts]: those asked for, or all the attacker has no image of."""
    held = set(shard.labels.tolist())
    wanted = settings.classes or tuple(label for label in range(classes) if label not in held)
    return torch.tensor(wanted, dtype=torch.int64).repeat_interleave(settings.restarts)


class _Reporter:
    """Prints progress as JSON lines, at most five a second."""

    def __init__(self, job: str) -> None:
        self._job, self._last = job, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._last > 0.2:
            self._last = now
            print(json.dumps({"job": self._job, "what": what, "done": done, "total": total}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a plan; return the exit code: 0 done, 2 something the operator can mend."""
    parser = argparse.ArgumentParser(prog="python -m attacker.worker", description="Invert captured models.")
    parser.add_argument("plan", type=Path, help="the plan, a JSON file")
    parser.add_argument("--priors", action="store_true", help="only train the priors that need no captured model")
    parser.add_argument(
        "--share", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="do every N-th job from the K-th"
    )
    chosen = parser.parse_args(arguments)
    try:
        plan = Plan.read(chosen.plan)
        bench = Bench(plan)
        torch.set_num_threads(bench.settings.threads)
        if chosen.priors:
            bench.train_priors()
        else:
            bench.work(*chosen.share)
    except FedInverseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
