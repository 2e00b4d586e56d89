"""Other attacks on finished runs: where they start; several captures together; on faces, others and other rounds.

    python benchmarks/finished_runs.py starts RUN... [--restarts 10] [--publish]       runs of the quick start
    python benchmarks/finished_runs.py captures RUN... [--restarts 2] [--publish]      the same
    python benchmarks/finished_runs.py faces RUN... [--steps 600] [--publish]          runs of configs/faces.toml
    python benchmarks/finished_runs.py rounds RUN... [--restarts 1] [--publish]        the same

The federation, the world without the victim and the evaluators are the run's, so that only attacks cost anything. Each
line is an attack on the captured model of a round (A), on that world's of the same round (B2), and its prior alone
(B0). "Resembles": near enough by E2 to a training image of the class. The evaluators with "none of these" learned that
from samples of the run's own GMI prior, not from those of the other attacks. Shares are means over runs, in %; CPU
seconds are of arm A, one thread, without the prior's training, which is a column of its own.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tables import DOCUMENT, markdown, publish

from attacker.attacks.registry import make_attack
from attacker.reconstructions import Reconstructions
from attacker.schedule import captured, together
from attacker.target import PublicSet, Target, open_target
from auditor.bench import Bench, open_bench
from auditor.evidence import Exhibit
from auditor.grids import png
from auditor.metrics.names import RESEMBLANCE
from auditor.scores import score
from auditor.settings import Audit
from fedinverse.layout import WITH_VICTIM, World, spools_of
from fedinverse.machine import keep_freed_memory
from fedinverse.rounds import kept_checkpoint
from fedinverse.run import Run
from fedinverse.seeds import generator
from fedinverse.storage import atomic_write
from pipeline.stages.inversions import read_inversions

CLOSED, OPEN = "attack-accuracy", "attack-accuracy-open"
ATTACK, CONTROL, ALONE = "A", "B2", "B0"
CPU = torch.device("cpu")
SMALL = {"width": 0.25, "batch_size": 32}
OTHERS: dict[str, dict[str, Any]] = {
    "kedmi": {"identity_loss": "logit", "iterations": 200, "prior": SMALL | {"critic_steps": 1, "lr": 5e-4}},
    "vmi": {"identity_loss": "logit", "iterations": 200, "prior": SMALL},
    "plgmi": {"iterations": 100, "prior": SMALL | {"critic_steps": 1, "lr": 5e-4}},
}


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        name: its first columns.
        table: of the attack.
        round: whose captured model is inverted; -1: the last.
    """

    name: tuple[str, ...]
    table: dict[str, Any]
    round: int = -1


def starts(gmi: dict[str, Any], steps: int) -> Iterator[Line]:
    """Yield GMI from random latents and from the best of more and more, with two losses, and with three captures."""
    margin = gmi | {"identity_loss": "max_margin", "captures": 1, "iterations": steps}
    for candidates in (0, 100, 500, 2000):
        yield Line((str(candidates), "max_margin", "1", str(steps)), margin | {"initial_selection": candidates})
    best = margin | {"initial_selection": 500}
    yield Line(("500", "max_margin", "3", str(steps // 2)), best | {"captures": 3, "iterations": steps // 2})
    yield Line(("500", "logit", "1", str(steps)), best | {"identity_loss": "logit"})


def captures(gmi: dict[str, Any], steps: int) -> Iterator[Line]:
    """Yield 1, 3 and 5 captures at as many steps as one takes, and at as many queries of the models."""
    budgets = [("one", 1, steps)]
    budgets += [("equal steps", count, steps) for count in (3, 5)]
    budgets += [("equal queries", count, round(steps / count)) for count in (3, 5)]
    for budget, count, each in budgets:
        yield Line((budget, str(count), str(each), str(count * each)), gmi | {"captures": count, "iterations": each})


def faces(gmi: dict[str, Any], steps: int) -> Iterator[Line]:
    """Yield GMI as the run has it and the three others, whose priors learn for ``steps`` steps (VMI's three times)."""
    yield Line(("gmi", "shipped"), gmi)
    for name, table in OTHERS.items():
        yield other(name, table, steps * 3 if name == "vmi" else steps)


def rounds(gmi: dict[str, Any], steps: int) -> Iterator[Line]:
    """Yield KED-MI on some rounds."""
    del gmi
    for number in (2, 4, 8):
        line = other("kedmi", OTHERS["kedmi"], steps)
        yield replace(line, name=(str(number), *line.name[1:]), round=number)


def other(name: str, table: dict[str, Any], steps: int) -> Line:
    """Return a line of an attack that trains its prior."""
    return Line((name, f"{steps} steps"), table | {"kind": name, "prior": table["prior"] | {"steps": steps}})


TABLES = {
    "starts": (starts, 200, ["best of", "identity loss", "captures", "steps"], DOCUMENT),
    "captures": (captures, 100, ["budget", "captures", "steps", "queries"], DOCUMENT),
    "faces": (faces, 100, ["attack", "prior"], DOCUMENT.with_name("faces.md")),
    "rounds": (rounds, 100, ["round", "prior"], DOCUMENT.with_name("faces.md")),
}
"""Lines, their budget, their first columns, and the document."""


def opened(run: Run, weights: Path, together_with: int) -> Target:
    """Return the model in ``weights`` with those that are inverted together with it."""
    models = captured(*spools_of(run.files.attacker, WITH_VICTIM))

    def target(path: Path) -> Target:
        return open_target(path, run.model.name, len(run.class_names), run.model.width, CPU)

    return replace(target(weights), earlier=tuple(map(target, together(weights, models, together_with))))


def measure(run: Run, bench: Bench, line: Line, restarts: int, pictures: Path | None) -> dict[str, float]:
    """Return shares by metric and arm, and CPU seconds of training the prior and of one arm."""
    attack = make_attack(line.table, "attacks.benchmark", "benchmark")
    public = PublicSet.of(run.pools["public"])
    labels = torch.tensor(run.victim_classes).repeat_interleave(restarts)
    models = captured(*spools_of(run.files.attacker, WITH_VICTIM))
    number, control = max(models) if line.round < 0 else line.round, run.control_worlds[0]
    places: list[tuple[str, World, Path]] = [
        (ATTACK, WITH_VICTIM, models[number]),
        (CONTROL, control, kept_checkpoint(run, control, number)),
    ]
    exhibits, figures = [], dict[str, float]()
    for arm, world, weights in places:
        target = opened(run, weights, int(line.table.get("captures", 1)))
        begun = time.process_time()
        prior = attack.prior(target, public, run.seed, CPU)
        trained = time.process_time()
        reconstructions = attack.invert(target, prior, public, labels, generator(run.seed, "benchmark"))
        figures |= {f"prior {arm}": trained - begun, f"seconds {arm}": time.process_time() - trained}
        exhibits.append(exhibit(arm, world, number, reconstructions))
        if arm == ATTACK:
            alone = prior.sample(
                len(labels), generator(run.seed, "benchmark", ALONE), CPU, labels if prior.conditional else None
            )
            exhibits.append(replace(exhibits[0], arm=ALONE, images=alone))
    scores = score(exhibits, bench, run.seed).table
    for each in exhibits:
        mine = scores[(scores["arm"] == each.arm) & (scores["label"].isin(run.victim_classes))]
        for metric in (CLOSED, OPEN, RESEMBLANCE):
            figures[f"{metric} {each.arm}"] = 100 * float(mine[mine["metric"] == metric]["value"].mean())
        if pictures is not None:
            atomic_write(pictures / f"{'-'.join(line.name)}-{run.seed}-{each.arm}.png", png(each.images, 1))
    return figures


def exhibit(arm: str, world: World, number: int, reconstructions: Reconstructions) -> Exhibit:
    """Return what the auditor is shown."""
    return Exhibit(
        arm,
        world,
        number,
        "benchmark",
        reconstructions.images,
        reconstructions.labels,
        reconstructions.confidence,
        reconstructions.failed,
    )


def main() -> None:
    """Measure every line on every run; print and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of an attack, or of the generators of faces and rounds")
    parser.add_argument("--only", help="first column of the one line to measure")
    parser.add_argument("--pictures", type=Path, help="also draw the images into this directory")
    parser.add_argument("--publish", action="store_true", help="put the table into its document")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines_of, budget, first, document = TABLES[chosen.table]
    runs = [Run(path) for path in chosen.runs]
    benches = [open_bench(run, run.section("audit", Audit), read_inversions(run).samples) for run in runs]
    rows = []
    for line in lines_of(runs[0].table["attacks"]["gmi"], chosen.steps or budget):
        if chosen.only not in (None, line.name[0]):
            continue
        measured = [
            measure(run, bench, line, chosen.restarts, chosen.pictures)
            for run, bench in zip(runs, benches, strict=True)
        ]
        rows.append([*line.name, *columns_of(measured)])
        print(" | ".join(rows[-1]), flush=True)
    if chosen.publish:
        header = [*first, *(f"{what}: attack / no victim / prior" for what in ("closed", "open", "resembles"))]
        publish(f"finished-{chosen.table}", markdown([*header, "prior, s", "attack, s"], rows), document)


def columns_of(measured: list[dict[str, float]]) -> list[str]:
    """Return what stands in a line, mean over runs."""
    shares = [
        " / ".join(f"{mean(each[f'{metric} {arm}'] for each in measured):.0f}" for arm in (ATTACK, CONTROL, ALONE))
        for metric in (CLOSED, OPEN, RESEMBLANCE)
    ]
    return [*shares, *(f"{mean(each[f'{what} {ATTACK}'] for each in measured):.0f}" for what in ("prior", "seconds"))]


if __name__ == "__main__":
    main()
