"""Fuzzing: mutated configs and mutated files must end in a clear error or in exactly what was meant.

    python benchmarks/fuzz.py [--configs 100000] [--files 10000] [--places 2000] [--runs 500] [--seed 0] [--json PATH]

Every case is made in this process from its number and the seed, so a failure is repeated with ``--only KIND:NUMBER``.
A case fails when

- anything but a ``FedInverseError`` is raised (a traceback for the user);
- it takes longer than ten seconds, a command on a damaged run longer than sixty;
- a damaged file that carries a hash is read as if it were whole, or a config is accepted whose resolved form, written
  out and read again, says something else.

The files are those of a small run made beforehand: checkpoints, captures, ledger, receipts, recorded rounds, split
manifest, pool requests, resolved config, the worker's plan, an inversion's description and a pool's. Places are folders
of pictures as nobody should have them, with their class names printed on a console of any width and encoding, and
commands in environments with any home, temporary directory, locale, terminal and cache (``fuzz_places.py``). Runs are
finished ones, any file of which is damaged before the next command (``fuzz_runs.py``).
"""

import argparse
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from fuzz_configs import check_config, config_case
from fuzz_files import check_file, file_case, make_run, targets
from fuzz_places import CHECKS
from fuzz_runs import finished_run, run_case

from fedinverse.storage import write_json

LIMIT = 10.0
AGAIN = 60.0  # a command may make again what was damaged


class HangError(Exception):
    """A case took too long."""


@contextmanager
def time_limit(seconds: float = LIMIT) -> Iterator[None]:
    """Raise ``HangError`` in the body after ``seconds``."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(check: Callable[[], str], seconds: float = LIMIT) -> str:
    """Return what ``check`` says, or ``FAILED`` with the exception that came out of it."""
    try:
        with time_limit(seconds):
            return check()
    except Exception as error:  # whatever comes is the finding
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else "?"
        notes = " ".join(getattr(error, "__notes__", ()))
        return f"FAILED {type(error).__name__} at {where}: {str(error)[:120]} {notes}".rstrip()


def main() -> None:
    """Fuzz, print counts and the first failures of each sort, write JSON if asked; exit 1 if any case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--places", type=int, default=2_000, help="of each sort")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case, with its traceback")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as directory:
        scratch = Path(directory)
        os.environ.setdefault("FEDINVERSE_CACHE", str(scratch / "cache"))
        if chosen.only:
            _one(chosen.only, chosen.seed, scratch)
            return
        counts: Counter[tuple[str, str]] = Counter()
        examples: dict[str, str] = {}
        for number in range(chosen.first, chosen.first + chosen.configs):
            text, assignments = config_case(number, chosen.seed)
            said = outcome(lambda text=text, given=assignments: check_config(scratch, text, given))  # type: ignore[misc]
            _count("config", number, said, counts, examples)
        for kind, check in CHECKS.items():
            for number in range(chosen.first, chosen.first + chosen.places):
                said = outcome(lambda n=number, check=check: check(scratch, n, chosen.seed))  # type: ignore[misc]
                _count(kind, number, said, counts, examples)
        if chosen.runs:
            finished = finished_run(scratch / "finished")
            for number in range(chosen.first, chosen.first + chosen.runs):
                said = outcome(lambda n=number: run_case(finished, scratch, n, chosen.seed), AGAIN)  # type: ignore[misc]
                _count("run", number, said, counts, examples)
        if chosen.files:
            kinds = targets(make_run(scratch))
            meant = {name: target.read(target.path) for name, target in kinds.items()}
            for number in range(chosen.first, chosen.first + chosen.files):
                name = sorted(kinds)[number % len(kinds)]
                damaged = file_case(name, kinds[name], number, chosen.seed)
                said = outcome(lambda t=kinds[name], d=damaged, m=meant[name]: check_file(t, d, m))  # type: ignore[misc]
                _count(name, number, said, counts, examples)
    _tell(counts, examples, time.perf_counter() - start)
    if chosen.json:
        rows = [{"kind": kind, "outcome": what, "cases": count} for (kind, what), count in sorted(counts.items())]
        write_json(chosen.json, {"seed": chosen.seed, "first": chosen.first, "measured": rows, "failures": examples})
    raise SystemExit(1 if examples else 0)


def _one(case: str, seed: int, scratch: Path) -> None:
    kind, number = case.split(":")
    if kind == "config":
        text, assignments = config_case(int(number), seed)
        print(text.decode(errors="replace"), assignments)
        print(check_config(scratch, text, assignments))
        return
    if kind in CHECKS:
        print(CHECKS[kind](scratch, int(number), seed))
        return
    if kind == "run":
        print(run_case(finished_run(scratch / "finished"), scratch, int(number), seed))
        return
    target = targets(make_run(scratch))[kind]
    damaged = file_case(kind, target, int(number), seed)
    print(damaged[:2000])
    print(check_file(target, damaged, target.read(target.path)))


def _count(kind: str, number: int, said: str, counts: Counter[tuple[str, str]], examples: dict[str, str]) -> None:
    counts[kind, said.split(maxsplit=1)[0]] += 1
    if said.startswith("FAILED"):
        sort = f"{kind}: {said}"
        if sort not in examples and len(examples) < 100:
            examples[sort] = f"{kind}:{number}"
            print(f"{kind}:{number}  {said}", flush=True)


def _tell(counts: Counter[tuple[str, str]], examples: dict[str, str], seconds: float) -> None:
    print(f"{sum(counts.values())} cases in {seconds:.0f} s, {len(examples)} sorts of failures")
    for (kind, what), count in sorted(counts.items()):
        print(f"  {kind:<16}{what:<10}{count:>7}")


if __name__ == "__main__":
    main()
