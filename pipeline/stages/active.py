"""What an active participant won, and whether the server could have noticed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from attacker.active.ascent import CANDIDATES
from attacker.active.gan import STATES, Gan, sampled
from attacker.membership.scores import scores_of
from attacker.membership.signals import open_models, signals
from attacker.priors.dcgan import Generator
from attacker.schedule import captured
from attacker.settings import Attacker
from auditor.activity import ActiveReport, accuracies, answer_to, less, read_active, share_of, visible_in
from auditor.evaluators.evaluator import THREADS, train_judge
from auditor.evaluators.material import material_of
from auditor.grids import png
from auditor.membership import Candidates, candidates_of
from auditor.metrics.roc import paired_difference, told_apart
from auditor.questions import question_of, write_answer
from auditor.settings import Audit
from auditor.verdict import Interval, Missing
from fedinverse.data.source import unit
from fedinverse.errors import StageError
from fedinverse.layout import PASSIVE, WITH_VICTIM, World, spools_of
from fedinverse.models import spec_of
from fedinverse.private import part_of
from fedinverse.run import Run
from fedinverse.seeds import derive, numpy_generator, threads
from fedinverse.shard import Shard, open_shard, save_shard
from fedinverse.storage import (
    atomic_write,
    content_sha256,
    file_sha256,
    into_module,
    load_weights,
    read_metadata,
    write_json,
)
from fedinverse.switches import exact_fp32
from pipeline.stages.membership_scores import Membership
from report.console import console

VERSION = 3  # of the figures; raise it when one of them changes
QUESTION = question_of("active")
SAMPLES, SHOWN = 200, 16  # images of a generator that are judged, and of those that are shown
RESOLUTION = {"gan": 0.25, "ascent": 0.05}


def lay_out(run: Run, worlds: Sequence[World]) -> None:
    """Give active attackers what their operator would: the records that gradient ascent asks about, in ``worlds``."""
    active = run.table["active"]
    if active["kind"] != "ascent" or active["candidates"]:
        return
    settings = run.section("membership", Membership)
    asked = candidates_of(run, settings.per_class, with_vault=settings.with_vault)
    for world in worlds:
        for client in run.population.attackers:
            where = run.files.attacker.active(world) / f"client-{client}" / CANDIDATES
            if not where.exists():
                save_shard(where, Shard(asked.images, asked.labels))


def active(run: Run) -> ActiveReport:
    """Answer the question for ``run``, unless that is done; write ``audit/active.json``, a picture and the answer.

    Raises:
        StageError: an active participant never took part, or what it remembered is gone.
    """
    settings = dict(run.table["active"])
    kind = str(settings.pop("kind"))
    path, answered = run.files.auditor.active, run.files.auditor.answer(QUESTION.key)
    key = _key(run)
    if path.exists() and answered.exists():
        stored = read_active(path)
        if stored.inputs == key:
            console.print("Active participant: the figures are up to date")
            return stored
    console.print(f"[b]Active participant[/b] '{kind}': what it won, and whether the server could have noticed")
    with threads(THREADS), exact_fp32(run.section("audit", Audit).device):
        figures = _of_gan(run, Gan(**settings)) if kind == "gan" else _of_ascent(run)
    report = ActiveReport(
        kind=kind,
        **figures,
        resolution=RESOLUTION[kind],
        accuracy=accuracies(run, (WITH_VICTIM, PASSIVE, *run.control_worlds)),
        visible=visible_in(run, run.population.attackers),
        inputs=key,
    )
    write_json(path, report.model_dump(mode="json"))
    write_answer(run, answer_to(report))
    return report


def _of_gan(run: Run, settings: Gan) -> dict[str, Any]:
    """Return how many samples of the generator E1 reads as the class, with and without the victim."""
    audit = run.section("audit", Audit)
    judge = train_judge(material_of(run, audit.evaluator), audit.evaluator, run.files.auditor.root, audit.device)
    shares: dict[str, Interval | Missing] = {}
    drawn: dict[str, None] = {}
    names = {"active": WITH_VICTIM, **_without(run)}
    for name, world in names.items():
        states, read, pictures = _last_states(run, world), [], []
        for state in states:
            about = read_metadata(state)
            generator_network = Generator(spec_of(run.model.name).input_shape, settings.width)
            into_module(generator_network, load_weights(state)[0], str(state))
            images = unit(sampled(generator_network, SAMPLES, derive(run.seed, "gan judged"), torch.device("cpu")))
            read += (judge.logits(images).argmax(1) == int(about["target"])).tolist()
            pictures.append(images[: max(1, SHOWN // len(states))])
            drawn[run.class_names[int(about["target"])]] = None
        shares[name] = share_of(read)
        atomic_write(run.files.auditor.active_picture(world), png(torch.cat(pictures)))
    malicious = len(_last_states(run, WITH_VICTIM))
    whose = "its generator" if malicious == 1 else f"each of {malicious} generators"
    reserve = part_of(run, "reserve")
    there = torch.isin(reserve.labels, torch.tensor([run.class_names.index(name) for name in drawn]))
    real = share_of((judge.logits(unit(reserve.images[there])).argmax(1) == reserve.labels[there]).tolist())
    shares["real images"] = real
    gained: Interval | Missing = Missing(omitted="no federation without the victim was run (audit.without_victim)")
    if real.value < audit.primary.ceiling:
        gained = Missing(
            omitted=f"the evaluator reads {real.value:.0%} of real images of the class, under audit.primary.ceiling, "
            f"{audit.primary.ceiling:.0%}"
        )
    elif "no victim" in shares:
        one, other = shares["active"], shares["no victim"]
        assert isinstance(one, Interval)
        assert isinstance(other, Interval)
        gained = less(one, other)
    return {
        "gain": f"share of {SAMPLES} samples of {whose} that the evaluator reads as class {', '.join(drawn)}",
        "leakage": shares,
        "difference": gained,
        "control": "the same without the victim",
        "notes": ("intervals are over samples of an attacker's generator, as if they were independent",),
    }


def _without(run: Run) -> dict[str, World]:
    """Return the first world without the victim by the name of its figure; empty: none was run."""
    return dict(zip(("no victim",), run.control_worlds, strict=False))


def _last_states(run: Run, world: World) -> list[Path]:
    """Return the last generator of every attacker that took part."""
    where = [run.files.attacker.active(world) / f"client-{client}" for client in run.population.attackers]
    states = [max(states_there) for each in where if (states_there := sorted(each.glob(STATES)))]
    if not states:
        raise StageError(
            f"{', '.join(map(str, where))}: no generator, since no attacker was ever drawn to train; set "
            'federation.policy = "every_round" with federation.always_train, or let more clients train'
        )
    return states


def _of_ascent(run: Run) -> dict[str, Any]:
    """Return how well the pushed candidates are told apart when active, when passive, and without the victim."""
    settings = run.section("membership", Membership)
    asked = candidates_of(run, settings.per_class, with_vault=settings.with_vault)
    device = run.section("attacker", Attacker).device
    pushed = _pushed(run, asked)
    areas: dict[str, Interval | Missing] = {}
    kept = {}
    named = {"active": WITH_VICTIM, "passive": PASSIVE, **_without(run)}
    for name, world in named.items():
        models = open_models(captured(*spools_of(run.files.attacker, world)), device)
        scores = scores_of(signals(models, pushed.images, pushed.labels))
        if settings.score not in scores:
            raise StageError(
                f"membership.score '{settings.score}' needs reference models; choose one of captures alone"
            )
        kept[name] = scores[settings.score].numpy()
        area = told_apart(kept[name], pushed.member, numpy_generator(run.seed, "ascent", name)).auc
        areas[name] = Interval(value=area.value, low=area.low, high=area.high, marks=())
    gained = paired_difference(kept["active"], kept["passive"], pushed.member, numpy_generator(run.seed, "ascent"))
    return {
        "gain": f"area under the ROC curve of the pushed candidates by the score '{settings.score}'",
        "leakage": areas,
        "difference": Interval(value=gained.value, low=gained.low, high=gained.high, marks=()),
        "control": "the same with the attacker passive",
        "notes": (f"{len(pushed.labels)} candidates were pushed",),
    }


def _pushed(run: Run, asked: Candidates) -> Candidates:
    """Return those of ``asked`` whose loss the attacker raised.

    Raises:
        StageError: the attacker asked about others.
    """
    client = run.population.attackers[0]
    where = Path(
        run.table["active"]["candidates"] or run.files.attacker.active(WITH_VICTIM) / f"client-{client}" / CANDIDATES
    )
    given = open_shard(where)
    if len(given) != len(asked.labels) or not torch.equal(given.images, asked.images):
        raise StageError(
            f"{where} holds other records than [membership] asks about: it was changed after the federation; set "
            "membership.per_class and with_vault back"
        )
    half = len(given) // 2
    return Candidates(asked.images[:half], asked.labels[:half], asked.member[:half], asked.rows[:half])


def _key(run: Run) -> str:
    """Return a hash of everything that the report follows from."""
    worlds = (WITH_VICTIM, PASSIVE, *run.control_worlds)
    hashes = [[world, [line.sha256 for line in run.recorded_rounds(world)]] for world in worlds]
    updates = [file_sha256(path) for world in worlds for path in [run.files.server.updates(world)] if path.exists()]
    audit = run.section("audit", Audit)
    audited = [audit.evaluator.model_dump(mode="json"), audit.primary.ceiling]
    chosen = run.section("membership", Membership).model_dump(mode="json")
    return content_sha256([VERSION, run.table["active"], hashes, updates, audited, chosen])
