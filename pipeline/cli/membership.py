"""``fedinverse membership``: was this record used for training? Of a run, or of any spool of captures."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import DeviceOption, SeedOption

EXAMPLES = """
**Examples**

fedinverse membership runs/quickstart                    of a finished run
fedinverse membership runs/quickstart --set score=cosine

fedinverse membership spool --members in --others out    of a node's captures

A directory of images holds images.npy, uint8 (N, C, H, W), and labels.npy.
"""


def membership(
    target: Annotated[Path, typer.Argument(help="run directory, or a directory of captures", metavar="TARGET")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a setting of [membership], e.g. per_class=100; repeatable"),
    ] = None,
    members: Annotated[
        Path | None, typer.Option("--members", help="of captures: directory of images that were trained on")
    ] = None,
    others: Annotated[
        Path | None, typer.Option("--others", help="of captures: directory of images that nobody trained on")
    ] = None,
    shard: Annotated[
        Path | None, typer.Option("--shard", help="of captures: the attacker's own images, to train references on")
    ] = None,
    without: Annotated[
        Path | None, typer.Option("--without", help="of captures: models of a federation without the victim")
    ] = None,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--out", help="of captures: also write the figures to this file")] = None,
) -> None:
    """Ask whether records were used for training, with the scores a participant can compute from captures.

    Of a run, the auditor chooses the records; answer, controls and ROC curves go into its report.
    Of captures, say which images were trained on and which were not.
    """
    from fedinverse.errors import ConfigError
    from fedinverse.layout import is_run

    given = {"--members": members, "--others": others, "--shard": shard, "--without": without, "--out": out}
    if is_run(target):
        surplus = [name for name, value in given.items() if value is not None]
        if surplus:
            raise ConfigError(f"{target} is a run directory, which knows its records; leave {', '.join(surplus)} out")
        _of_run(target, set_ or [])
    elif members is None or others is None:
        raise ConfigError(
            f"{target} is no run directory; for captures give --members DIR and --others DIR, which say what was "
            "trained on and what was not"
        )
    else:
        _of_spool(target, set_ or [], members, others, shard, without, device, seed, out)


def _of_run(directory: Path, assignments: list[str]) -> None:
    from pipeline.cli.held import asked_again
    from pipeline.stages.membership import membership as stage
    from pipeline.stages.membership_scores import of_table, show

    with asked_again(directory, "membership", of_table, assignments) as run:
        show(stage(run))


def _of_spool(
    spool: Path,
    assignments: list[str],
    members: Path,
    others: Path,
    shard: Path | None,
    without: Path | None,
    device: str,
    seed: int,
    out: Path | None,
) -> None:
    from attacker.membership.references import holdings
    from attacker.schedule import captured, check_received
    from auditor.membership import answer_to, candidates_between
    from fedinverse.errors import StageError
    from fedinverse.machine import device_on
    from fedinverse.shard import Shard, open_shard
    from fedinverse.storage import write_json
    from fedinverse.tables import assigned
    from pipeline.stages.answers import show_answer
    from pipeline.stages.membership_scores import Seat, measured, of_rounds, of_table, show
    from report.console import say

    settings = of_table(assigned({}, assignments))
    check_received(spool, *([without] if without is not None else []))
    models = of_rounds(captured(spool), settings, spool)
    held = open_shard(shard) if shard is not None else Shard.empty()
    asked = candidates_between(open_shard(members), open_shard(others), held, seed)
    where = str(device_on(device, "--device"))
    beside: dict[int, Path] | str = "no federation without the victim is known; give --without DIR"
    if without is not None:
        control = captured(without)
        if not models.keys() <= control.keys():
            raise StageError(f"{without} lacks the rounds {sorted(models.keys() - control.keys())} of {spool}")
        beside = {number: control[number] for number in models}
    seat = Seat(holdings(held, None, ()), settings.references, where, seed)
    report, _ = measured(asked, models, beside, seat, settings, "a run's audit alone has them")
    show(report)
    show_answer(answer_to(report))
    if out is not None:
        write_json(out, report.model_dump(mode="json"))
        say("Figures", str(out))
