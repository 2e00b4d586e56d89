"""Stage 3: the attacker's worker inverts what was captured; the auditor's control targets go the same way."""

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import Progress

from attacker.settings import Attacker
from attacker.worker import Bench, Check, Plan, distinct
from auditor.arms import ARMS, TYPE_I
from auditor.settings import Audit
from auditor.targets import Targets, weights_of
from fedinverse.client_data import pooled_shard
from fedinverse.errors import StageError
from fedinverse.house import HOME
from fedinverse.layout import WITH_VICTIM, spools_of
from fedinverse.overlap import shared_names
from fedinverse.program import command_of
from fedinverse.records import ModelFile
from fedinverse.registry import search_path
from fedinverse.run import Run
from fedinverse.seeds import threads
from fedinverse.shard import save_shard
from pipeline.stages.inversions import Planned, write_index
from report.console import console, progress_bar
from report.text import counted


def plan_of(run: Run, targets: Targets | None = None) -> Plan:
    """Return the plan of the attacker's worker, after laying out what it may read: its images, in its own directory.

    While the federation runs there are no control targets yet.
    """
    shard = pooled_shard(run)
    files = run.files.attacker
    if not files.shard.labels.exists():
        save_shard(files.shard.root, shard)
    spool, *pooled = spools_of(files, WITH_VICTIM)
    models = () if targets is None else targets.models
    controls = tuple(each for each in models if each.arm not in ("A", "T1"))
    steps = run.section("audit", Audit).unaided_steps
    return Plan(
        spool=str(spool),
        controls=tuple(str(weights_of(run, each)) for each in controls),
        shard=str(files.shard.root),
        public=str(run.pools["public"].path),
        classes=len(run.class_names),
        store=str(run.files.attacker.inversions),
        seed=run.seed,
        samples_seed=run.data_seed,
        attacker=run.table.get("attacker", {}) | {"classes": list(asked_classes(run))},
        attacks=run.table.get("attacks", {}),
        model=run.model.name,
        shared_classes=shared_classes(run),
        pooled=tuple(map(str, pooled)),
        checks=tuple(Check(TYPE_I, unaided(steps), str(weights_of(run, each))) for each in models if each.arm == "T1"),
    )


def asked_classes(run: Run) -> tuple[int, ...]:
    """Return the classes to reconstruct; empty: all of which the attacker holds no image.

    Of a victim who shares their classes it is those that they hold, whether the attacker has images of them or not.
    """
    asked = run.section("attacker", Attacker).classes
    return asked or (run.victim_classes if run.population.shares_classes else ())


def unaided(steps: int) -> dict[str, Any]:
    """Return the attack of arm T1: pixels against the cross-entropy of the target alone, for ``steps`` steps.

    Nothing makes such images look like anything; what an evaluator accepts of them is its own gullibility.
    """
    return {"kind": "deepinversion", "bn": 0.0, "tv": 0.0, "l2": 0.0, "shift": 0, "iterations": steps}


def shared_classes(run: Run) -> tuple[str, ...]:
    """Return the victim's classes that the public images show too: none, unless the configuration allows overlap."""
    victims = tuple(run.class_names[label] for label in run.victim_classes)
    return tuple(shared_names(victims, run.pools["public"].class_names))


def planned(run: Run, targets: Targets) -> Bench:
    """Write the worker's plan for ``targets`` and the index of its inversions; return the plan, opened."""
    bench = Bench(plan_of(run, targets))
    bench.plan.write(_plan_file(run))
    lines = {
        (job.label, sha): Planned(job.label, sha, job.where.path.relative_to(run.files.attacker.inversions).as_posix())
        for job in bench.jobs()
        for sha in [ModelFile.read(job.weights).sha256]
    }
    write_index(run, list(lines.values()))
    return bench


def samples_beforehand(run: Run) -> list[Path] | None:
    """Return the files of samples of the attacks' priors, there or not; None: some prior needs a captured model."""
    return Bench(plan_of(run)).samples()


class Meanwhile:
    """What the attacker does while the federation runs, in a process of its own; says what it shares with the clients.

    It trains the priors that need no captured model; with ``attacker.when`` it also inverts captures as they come.
    Where all priors are there and nothing is inverted yet, no process is started. With ``profiles`` it leaves there
    what it spent its time on.
    """

    def __init__(self, run: Run, profiles: Path | None = None) -> None:
        self._run, self._settings, self._profiles = run, run.section("attacker", Attacker), profiles
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> None:
        path, watching = _plan_file(self._run), self._settings.during
        bench = Bench(plan_of(self._run))
        if bench.has_priors and not watching:
            with threads(self._settings.threads):
                bench.train_priors()
            return
        bench.plan.write(path)
        self._stop = Plan.stop(path)
        self._stop.unlink(missing_ok=True)
        work = "inverts what it captures" if watching else "makes its prior ready"
        console.print(f"[dim]meanwhile the attacker {work} {self._settings.sharing}[/dim]", soft_wrap=True)
        self._process = subprocess.Popen(
            _worker(path, self._profiles, *_child(), "--watch" if watching else "--priors"),
            cwd=HOME,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Left running after success: it does what is left and ends, and the stage that follows waits for its locks.
        # Its failure shows there, with its reason.
        if kind is None and self._process is not None and self._settings.during:
            self._stop.touch()
        elif kind is not None and self._process is not None:
            self._process.terminate()


def invert(run: Run, targets: Targets, profiles: Path | None = None) -> None:
    """Run the worker processes until every attack has inverted every one of ``targets``.

    With ``profiles`` they leave there what they spent their time on.

    Raises:
        StageError: a worker died; the message says how. What it finished is kept.
    """
    waiting = [job for job in distinct(planned(run, targets).jobs()) if not job.where.done]
    if not waiting:
        console.print("Inverting: all inversions are done")
        return
    settings = run.section("attacker", Attacker)
    on_cpu = settings.device == "cpu"
    count = min(len(waiting), settings.processes or ((os.cpu_count() or 1) if on_cpu else 1))
    sharing = "on this machine's CPU" if on_cpu else f"on {settings.device}"
    console.print(
        f"[b]Inverting[/b] {counted(len(waiting), 'target')} in {counted(count, 'process', 'processes')} of the "
        f"attacker's own, {sharing}",
        soft_wrap=True,
    )
    arms = {str(weights_of(run, each)): ARMS[each.arm].name for each in targets.models if each.arm != "T1"}
    _watch([_worker(_plan_file(run), profiles, *_child())] * count, arms)
    left = [job for job in waiting if not job.where.done]
    if left:
        raise StageError(f"the workers left {len(left)} inversions undone; start again with --resume")


def _worker(plan: Path, profiles: Path | None, *options: str) -> list[str]:
    """Return the command line of a worker."""
    profile = [] if profiles is None else ["--profile", str(profiles.resolve())]
    return command_of("attacker.worker", str(plan), *options, *profile)


def _child() -> tuple[str, str]:
    """Return the options by which a worker ends with this process, even if it is killed before the worker has begun."""
    return "--child", str(os.getpid())


def _environment() -> dict[str, str]:
    """Return the environment of a worker, which starts in another directory: it imports what this process can."""
    return os.environ | {"PYTHONPATH": search_path()}


def _plan_file(run: Run) -> Path:
    return run.files.attacker.plan.resolve()


def _watch(commands: list[list[str]], arms: dict[str, str]) -> None:
    """Run ``commands`` side by side, showing their JSON-lines progress; the first complaint becomes our error.

    ``arms`` says of every weights file whose model it is: three arms may invert models of one round. The Type-I test
    inverts the attack's model once more.
    """
    with progress_bar() as bar:
        workers = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                cwd=HOME,
                env=_environment(),
            )
            for command in commands
        ]
        readers = [threading.Thread(target=_show, args=(worker, bar, arms), daemon=True) for worker in workers]
        try:
            for reader in readers:
                reader.start()
            complaints = [worker.stderr.read() if worker.stderr else "" for worker in workers]
            codes = [worker.wait() for worker in workers]
            for reader in readers:
                reader.join()
        finally:
            for worker in workers:
                worker.terminate()
    for code, complaint in zip(codes, complaints, strict=True):
        if code:
            reason = (complaint.strip().splitlines() or ["no message"])[-1].removeprefix("error: ")
            raise StageError(f"the attacker's worker ended with {code}: {reason}")


def _show(worker: "subprocess.Popen[str]", bar: Progress, arms: dict[str, str]) -> None:
    task = bar.add_task("starting a worker", total=None)
    assert worker.stdout is not None
    for line in worker.stdout:
        progress = json.loads(line)
        arm = ARMS["T1"].name if progress["job"].startswith(TYPE_I) else arms.get(progress["weights"])
        what = ", ".join(filter(None, (progress["job"], arm))) + f": {progress['what']}"
        bar.update(task, completed=progress["done"], total=progress["total"], description=escape(what))
        if progress["done"] == progress["total"]:
            bar.console.print(f"  {what}, {counted(progress['total'], 'step')}", markup=False, soft_wrap=True)
    bar.remove_task(task)
