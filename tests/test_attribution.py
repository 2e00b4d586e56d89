"""Shared classes: copies of the victim's images are theirs, class averages nobody's, and their client is left out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import merged, run_in
from jinja2 import Environment, FileSystemLoader
from torch import Tensor

from auditor.bench import Bench, open_bench
from auditor.controls import reserve_exhibit
from auditor.decision import Outcome
from auditor.evidence import Exhibit
from auditor.grids import draw_grid
from auditor.judgement import judge
from auditor.metrics.copies import Copies, copies
from auditor.metrics.distances import nearest
from auditor.peers import Side, peers_of
from auditor.scores import score
from auditor.settings import Audit, Primary
from auditor.statistics import Cells, lead_over_half
from auditor.verdict import AttributionReport, Interval, Missing, Verdict, read_verdict
from fedinverse.client_data import shard_of
from fedinverse.data.source import Images, Request, Source, open_source, unit
from fedinverse.errors import ConfigError
from fedinverse.overlap import check_disjoint
from fedinverse.private import holdings_of, part_of
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.storage import read_jsonl
from pipeline.experiment import resolved
from report.run import gallery
from report.run.copies import MOST, Copied, copies_shown
from strategies.participation import Participation, Selection

RESTARTS = 3
SHARED = {"population": {"victim_classes": []}}
EVALUATOR = {"width": 0.25, "epochs": 12}


def opened(out: Path, *settings: str) -> tuple[Run, Bench]:
    """Return a small split in which clients share all digits, and its auditor."""
    from test_instrument import SETTINGS

    from pipeline.experiment import load_experiment

    kept = [each for each in SETTINGS if not each.startswith("population")]
    experiment = load_experiment("quickstart", [*kept, "population.victim_classes=[]", *settings], out)
    run = prepare(out / experiment.name, resolved(experiment))
    return run, open_bench(run, run.section("audit", Audit), [])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Bench]:
    """Return five clients to whom all digits are dealt at random."""
    return opened(tmp_path_factory.mktemp("shared"), "population.clients=5")


def digits_in_folders(request: Request) -> Images:
    """Return digits of three clients; the first writes every digit as others see it in a mirror."""
    pool = open_source(Request("mnist", request.shape, limit=900))
    holders = np.arange(len(pool.labels)) % 3
    images = np.where(holders[:, None, None, None] == 0, pool.images[:, :, :, ::-1], pool.images[:])
    return Images(images, np.asarray(pool.labels), pool.class_names, "", "", (), holders, ("a", "b", "c"))


IN_FOLDERS = Source(f"{__name__}:IN_FOLDERS", 1, "", digits_in_folders)


@pytest.fixture(scope="module")
def foldered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Bench]:
    """Return three clients who hold what lies in their folders, the victim images of a kind of their own."""
    settings = ["population.clients=3", "population.partition=folders", f"data.private={IN_FOLDERS.name}"]
    return opened(tmp_path_factory.mktemp("folders"), *settings)


def exhibit(arm: str, images: Tensor, labels: Tensor) -> Exhibit:
    world = "without_victim" if arm == "B2" else "with_victim"
    sure, none = torch.ones(len(labels)), torch.zeros(len(labels), dtype=torch.bool)
    return Exhibit(arm, world, 1, "gmi", images, labels, sure, none)


def noisy(shard: Shard, run: Run) -> tuple[Tensor, Tensor]:
    """Return some images of ``shard`` of every class, under noise: reconstructions that are copies."""
    rows = torch.cat([(shard.labels == label).nonzero().flatten()[:RESTARTS] for label in run.victim_classes])
    images = unit(shard.images[rows])
    return (images + 0.1 * torch.randn(images.shape, generator=generator(0, "noise"))).clamp(0, 1), shard.labels[rows]


def theirs(run: Run) -> Shard:
    others = holdings_of(run).others
    assert others is not None
    return others


def averages(run: Run, of: Shard | None = None) -> tuple[Tensor, Tensor]:
    """Return means of a few images of every class, by default of other clients': what it looks like, nobody's image."""
    others, random = of or theirs(run), generator(1, "averages")
    images, labels = [], []
    for label in run.victim_classes:
        rows = (others.labels == label).nonzero().flatten()
        for _ in range(RESTARTS):
            some = rows[torch.randperm(len(rows), generator=random)[:4]]
            images.append(unit(others.images[some]).mean(0))
            labels.append(label)
    return torch.stack(images), torch.tensor(labels)


def verdict_of(bench: tuple[Run, Bench], attack: tuple[Tensor, Tensor], control: tuple[Tensor, Tensor]) -> Verdict:
    run, instruments = bench
    blank = torch.rand(attack[0].shape, generator=generator(2, "blank"))
    arms = [exhibit("A", *attack), exhibit("B2", *control), exhibit("B0", blank, attack[1])]
    scored = score([*arms, reserve_exhibit(instruments, run.victim_classes, 1)], instruments, run.seed)
    return judge(scored.table, run.section("audit", Audit).primary, {1: 0.95}, classes=10, omitted=scored.omitted)


def whose(verdict: Verdict) -> AttributionReport:
    report = verdict.main.attribution
    assert isinstance(report, AttributionReport)
    return report


def test_copies_of_the_victims_images_are_attributed_to_them(bench: tuple[Run, Bench]) -> None:
    # Fails if others' images or the reserve stand where theirs should, or if their client's absence is not looked at.
    run, _ = bench
    verdict = verdict_of(bench, noisy(part_of(run, "train", victim_only=True), run), averages(run))
    assert verdict.outcome == "leak", verdict.reasons
    assert "the client's own training images" in verdict.sentence
    report = whose(verdict)
    assert report.answer == "the client"
    assert set(report.resemblance) == {"victim", "others", "nobody"}
    resembling = {side: each.value for side, each in report.resemblance.items() if isinstance(each, Interval)}
    assert resembling["victim"] > max(resembling["others"], resembling["nobody"])
    assert report.others.low > 0
    copied = report.copied
    assert copied["victim"] == len(run.victim_classes) * RESTARTS
    assert copied["others"] == copied["nobody"] == copied["victim, without their client"] == 0


@pytest.mark.parametrize("shows", ["averages", "others' images"])
def test_what_shows_the_class_is_not_attributed_to_the_client(bench: tuple[Run, Bench], shows: str) -> None:
    # The attacker may hold these very images: copies of others' are no leak of the victim's. Fails if the verdict
    # takes recognition, or nearness to any training image, for the victim's.
    run, _ = bench
    images = averages(run) if shows == "averages" else noisy(theirs(run), run)
    verdict = verdict_of(bench, images, averages(run))
    assert verdict.outcome == "the class, not the client", (verdict.outcome, verdict.reasons)
    assert whose(verdict).answer == "the class, not the client"
    assert whose(verdict).copied["victim"] == 0


def test_images_that_are_theirs_without_their_client_too_are_not_their_doing(bench: tuple[Run, Bench]) -> None:
    # Their pictures may be of a kind of their own: fails if a lead that stays without the victim counts.
    run, _ = bench
    images = noisy(part_of(run, "train", victim_only=True), run)
    verdict = verdict_of(bench, images, images)
    assert verdict.outcome not in ("leak", "the class, not the client")
    assert whose(verdict).answer == "unknown"


def test_noise_shows_neither(bench: tuple[Run, Bench]) -> None:
    run, _ = bench
    labels = torch.tensor(run.victim_classes).repeat_interleave(RESTARTS)
    images = torch.rand(len(labels), 1, 32, 32, generator=generator(3, "noise"))
    assert verdict_of(bench, (images, labels), (images, labels)).outcome in ("no leak detected", "inconclusive")


def test_folders_of_another_kind_are_attributed_only_where_the_victim_takes_part(
    foldered: tuple[Run, Bench],
) -> None:
    """What they hold is of a kind of its own: nearness to it alone, without the control, would say too much."""
    run, _ = foldered
    mine = part_of(run, "train", victim_only=True)
    assert not hashes(mine) & hashes(theirs(run))
    assert not len(shard_of(run, run.population.victim, "without_victim"))

    copied = verdict_of(foldered, noisy(mine, run), averages(run))
    assert (copied.outcome, whose(copied).answer) == ("leak", "the client")
    assert whose(copied).copied["others"] == 0

    their_kind = averages(run, mine)  # no image of theirs, but what only they write
    assert whose(verdict_of(foldered, their_kind, averages(run))).answer == "the client"
    without_them_too = verdict_of(foldered, their_kind, their_kind)
    assert without_them_too.outcome != "leak"
    assert whose(without_them_too).answer == "unknown"

    of_others = verdict_of(foldered, averages(run), averages(run))
    assert of_others.outcome == whose(of_others).answer == "the class, not the client"


def test_a_class_whose_images_all_are_borrowed_has_no_row_in_the_grid(bench: tuple[Run, Bench], tmp_path: Path) -> None:
    # Fails if the nearest of no image is looked for, as it was where clients overlap.
    run, instruments = bench
    kept = instruments.train.labels == 0
    train = Shard(instruments.train.images[kept], instruments.train.labels[kept])
    lacking = replace(instruments, train=train, train_seen=instruments.train_seen[kept])
    for name, victims in (("all", run.victim_classes), ("first", (0,))):
        draw_grid(tmp_path / name, exhibit("A", *averages(run)), lacking, victims, "")
    assert (tmp_path / "all").read_bytes() == (tmp_path / "first").read_bytes()


# ---------------------------------------------------------------------------------------------- who holds what


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards", "unequal", "pathological", "identity"])
def test_every_partition_knows_whose_images_are_whose(partition: str, tiny: Callable[..., Any]) -> None:
    # Fails if an image counts as the victim's and another's, or if their images stay in the world without the victim.
    experiment = tiny(**merged(SHARED, {"population": {"partition": partition, "overlap": 0.3, "alpha": 0.3}}))
    run = prepare(tiny_path(experiment), resolved(experiment))
    population, mine, others = run.population, part_of(run, "train", victim_only=True), theirs(run)
    held = shard_of(run, population.victim, "with_victim")
    assert 0 < len(mine) <= len(held)
    assert run.victim_classes == tuple(torch.unique(held.labels).tolist())
    assert not hashes(mine) & hashes(others)
    assert hashes(mine) <= hashes(held)
    for attacker in population.attackers:
        assert not hashes(others) & hashes(shard_of(run, attacker, "with_victim"))
    assert len(shard_of(run, population.victim, "without_victim")) == 0
    assert len(shard_of(run, 1, "without_victim")) == len(shard_of(run, 1, "with_victim"))


def tiny_path(experiment: Any) -> Path:
    return Path(experiment.out) / experiment.name


def hashes(shard: Shard) -> set[bytes]:
    return {image.numpy().tobytes() for image in shard.images}


def test_equally_many_of_every_class_are_drawn() -> None:
    # 5 of class 0 at the victim, 3 at others; 9 and 20 of class 1, of which the reserve gives up half of its 8.
    def side(*counts: int) -> Side:
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Side(torch.randn(len(labels), 4), labels)

    peers = peers_of(side(5, 9), side(3, 20), side(10, 8, 6), 0)
    for each in (peers.victim, peers.others, peers.nobody):
        assert each.labels.bincount().tolist() == [3, 4]
    assert len(peers.chance) == 18
    assert len(peers.not_drawn) == 11


def test_a_share_of_one_half_is_no_lead() -> None:
    def lead(shares: list[float]) -> Any:
        values = np.array([shares])
        return lead_over_half(Cells(values, np.full_like(values, 10), (0,), tuple(range(len(shares)))))

    assert lead([0.5] * 10).value == 0
    assert not lead([0.5] * 10).above_zero
    assert lead([1.0] * 10).above_zero
    assert not lead([1.0] * 4).above_zero  # four classes cannot show it: 1 / 16 by chance
    assert lead([0.8, 0.6]).value == pytest.approx(0.4)


def test_an_absent_client_is_drawn_like_the_others_and_takes_no_part() -> None:
    # Fails if the draw of the others moves when one is absent: the two worlds would differ by more than the victim.
    nodes = {100 + number: number for number in range(6)}
    policy = Participation(fraction_train=0.5)
    everyone, without = Selection(policy, 0, nodes), Selection(policy, 0, nodes, frozenset({0}))
    for number in range(1, 20):
        assert without.train(number) == [node for node in everyone.train(number) if node != 100]
    alone = Selection(Participation(fraction_train=0.1), 0, nodes, frozenset({0}))
    assert all(len(alone.train(number)) == 1 and alone.train(number) != [100] for number in range(1, 20))


# ------------------------------------------------------------------------------------------------ false attribution


def test_images_that_know_nothing_of_clients_are_hardly_ever_attributed() -> None:
    # Closed form: who holds what is drawn, so a class's share is uniform. 400 tables of ten classes, 5 % and a little.
    random = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        values = random.random((1, 10))
        called += lead_over_half(Cells(values, np.full_like(values, 10), (0,), tuple(range(10)))).above_zero
    assert called <= 0.05 * 400


def test_several_seeds_need_copies_in_more_than_chance_gives() -> None:
    # One copy in one of three federations is what a rate of 5 % gives; in two of three it is not.
    assert outcome_with_copies([1, 0, 0]) != "leak"
    assert outcome_with_copies([1, 1, 0]) == "leak"
    assert outcome_with_copies([1]) == "leak"


def outcome_with_copies(copied: list[int]) -> Outcome:
    rows = []
    for seed, number in enumerate(copied):
        where = {"seed": seed, "round": 1, "attack": "gmi", "count": 10}
        for arm, mean in {"A": 0.9, "B0": 0.0, "B2": 0.9, "B5": 0.0, "CEIL": 0.95}.items():
            here = where | {"arm": arm, "world": "without_victim" if arm == "B2" else "with_victim"}
            for label in range(20):
                rows.append(here | {"label": label, "metric": "attack-accuracy", "value": mean})
                if arm in ("A", "B2"):
                    rows.append(here | {"label": label, "metric": "nearer-to-victim", "value": 0.5})
            if arm in ("A", "B2"):
                rows.append(here | {"label": -1, "metric": "copied-images", "value": number * (arm == "A")})
    return judge(pd.DataFrame(rows), Primary(metric="attack-accuracy"), {1: 0.95}, classes=20).outcome


# ------------------------------------------------------------------------------------------------------- a whole run


def test_a_run_with_shared_classes_leaves_the_client_out_and_says_whose(tmp_path: Any) -> None:
    run = run_in(
        tmp_path,
        **merged(SHARED, {"attacker": {"classes": [0, 1, 2]}, "audit": {"without_victim": True, "unaided_steps": 0}}),
    )
    trained = read_jsonl(run.files.server.client_reports("without_victim"))
    assert trained
    assert not [line for line in trained if line["partition"] == run.population.victim]
    verdict = read_verdict(run.files.verdict)
    assert isinstance(verdict.main.attribution, AttributionReport)
    assert any("attacker itself holds images of 10 of the 10" in mark for mark in verdict.marks)
    page = run.files.report.read_text()
    assert "Whose images" in page


def test_a_victims_own_class_is_no_question_of_attribution(attacked_run: Any) -> None:
    assert isinstance(read_verdict(attacked_run.files.verdict).main.attribution, Missing)


def test_a_public_set_with_their_pictures_is_refused(bench: tuple[Run, Bench]) -> None:
    run, private = bench[0], bench[0].pools["private"]
    rows = run.split.loc[run.split["client"] == 0, "row"].to_numpy()
    with pytest.raises(ConfigError, match=f"holds {len(rows)} pictures of the victim"):
        check_disjoint(private, private, run.population, rows, allow=False)


# ---------------------------------------------------------------------------------------------- copies as pictures


def test_copies_are_shown_beside_the_image_and_the_nearest_reserve_image(bench: tuple[Run, Bench]) -> None:
    # Fails if a picture of another row stands there, if nothing is said of false ones, or if a class's name is no text.
    run, instruments = bench
    images, labels = noisy(part_of(run, "train", victim_only=True), run)
    train, reserve = instruments.train_features, instruments.reserve_features
    outcome = copies(nearest(instruments.embedding(images), train), nearest(reserve, train).distance)
    assert isinstance(outcome, Copies)
    original = instruments.train.images[int(outcome.original[0])]
    assert original.float().sub(images[0] * 255).abs().mean() < 26  # the noise
    pair = Copied(
        "<b>", {"made": original, "train": original, "reserve": original}, {"train": 0.2, "reserve": 0.9}, 1e-4
    )
    shown = copies_shown(outcome, [pair] * (MOST + 6), "gmi")
    assert len(shown.pairs) == MOST
    assert f"{len(labels)} training images of the victim's are copied" in shown.sentence
    assert "1.5 are expected to be no copies" in shown.sentence
    templates = Environment(loader=FileSystemLoader(Path(gallery.__file__).parent), autoescape=True)
    macro = templates.get_template("gallery.html").module.pairs  # type: ignore[attr-defined]
    html = str(macro(shown.pairs, ["Overlap allowed"]))
    assert "class &lt;b&gt;" in html
    assert html.count('loading="lazy"') == html.count("<img") == 3 * MOST
    assert "Overlap allowed" in html
    assert "corrected p 0.0001" in html


def test_no_copies_are_a_sentence(bench: tuple[Run, Bench]) -> None:
    instruments = bench[1]
    features = instruments.embedding(averages(bench[0])[0])
    train, reserve = instruments.train_features, instruments.reserve_features
    outcome = copies(nearest(features, train), nearest(reserve, train).distance)
    shown = copies_shown(outcome, [], "gmi")
    assert "None of 30 reconstructions" in shown.sentence
    assert not shown.pairs
