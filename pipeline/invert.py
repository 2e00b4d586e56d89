"""Stage 2: the attacker's worker inverts what was captured; the auditor's control targets go the same way."""

import json
import subprocess
import sys
from pathlib import Path

from attacker.inversion import Inversion
from attacker.worker import Bench, Plan
from fedinverse.errors import StageError
from fedinverse.run import Run
from fedinverse.shard import shard_of
from fedinverse.storage import save_array
from pipeline.console import console, progress_bar


def plan_of(run: Run) -> Plan:
    """Return the plan of the attacker's worker, after laying out what it may read: its shard, in its own directory."""
    attacker = run.population.attackers[0]
    shard = shard_of(run, attacker, "with_victim")
    own = run.path / "attacker" / "shard"
    if not (own / "labels.npy").exists():
        save_array(own / "images.npy", shard.images.numpy())
        save_array(own / "labels.npy", shard.labels.numpy())
    return Plan(
        spool=str(run.spool("with_victim")),
        controls=tuple(str(path) for path in control_targets(run)),
        shard=str(own),
        public=str(run.pools["public"].path),
        classes=len(run.class_names),
        store=str(run.inversions),
        seed=run.seed,
        attacker=run.table["attacker"],
        attacks=run.table["attacks"],
    )


def control_targets(run: Run) -> list[Path]:
    """Return the weights that controls invert: the untrained model (B1) and, if there is one, world W0's last (B2)."""
    rounds = int(run.table["federation"]["rounds"])
    targets = [run.checkpoint("with_victim", 0)]
    if run.table["audit"]["without_victim"]:
        targets.append(run.checkpoint("without_victim", rounds))
    return targets


def invert(run: Run) -> None:
    """Run the worker until every inversion is done.

    Raises:
        StageError: the worker died; the message says how. What it finished is kept.
    """
    plan = plan_of(run)
    waiting = [job for job in Bench(plan).jobs() if not job.where.done]
    if not waiting:
        console.print("Inverting: all inversions are done")
        return
    path = run.path / "attacker" / "plan.json"
    plan.write(path)
    device = str(run.table["attacker"]["device"])
    sharing = "after the federation, on the same CPU" if device == "cpu" else f"on {device}"
    console.print(f"[b]Inverting[/b] {len(waiting)} targets in the attacker's own process, {sharing}", soft_wrap=True)
    _watch([sys.executable, "-m", "attacker.worker", str(path.resolve())])
    left = [job for job in waiting if not job.where.done]
    if left:
        raise StageError(f"the worker left {len(left)} inversions undone; start again with --resume")


def _watch(command: list[str]) -> None:
    """Run ``command``, showing its JSON-lines progress; its errors become ours."""
    root = Path(__file__).resolve().parent.parent
    with (
        progress_bar() as bar,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as worker,
    ):
        task = bar.add_task("starting the worker", total=None)
        assert worker.stdout is not None
        assert worker.stderr is not None
        last = ""
        try:
            for line in worker.stdout:
                told = json.loads(line)
                bar.update(task, completed=told["done"], total=told["total"], description=told["what"])
                if told["done"] == told["total"]:
                    bar.reset(task)
                    last = f"{told['job']}: {told['what']}"
                    bar.console.print(f"  {last}, {told['total']} steps")
        except BaseException:
            worker.terminate()
            raise
        complaint = worker.stderr.read().strip()
    if worker.returncode:
        reason = complaint.removeprefix("error: ").splitlines()
        raise StageError(
            f"the attacker's worker ended with {worker.returncode}: {reason[-1] if reason else 'no message'}"
        )


def inversions_of(run: Run) -> dict[tuple[str, Path], Inversion]:
    """Return the finished inversions by (attack label, weights file)."""
    return {(job.label, job.weights): job.where for job in Bench(plan_of(run)).jobs() if job.where.done}
