"""Membership from the participant's seat: closed forms of the figures, the scores, and the question asked of a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run_in
from torch import Tensor
from typer.testing import CliRunner

from attacker.membership.references import Holdings, References, holdings, train_references
from attacker.membership.scores import Population, lira_offline, rmia, scores_of, slope
from attacker.membership.signals import last_layer, logit_confidence, open_models, signals
from auditor.membership import answer_to, candidates_between, candidates_of, judged, read_report
from auditor.metrics.roc import auc, permuted_area, roc, told_apart, true_at
from auditor.omitted import Omitted
from auditor.verdict import Interval
from fedinverse.errors import ConfigError, IntegrityError, StageError
from fedinverse.models import build
from fedinverse.run import Run
from fedinverse.seeds import numpy_generator
from fedinverse.shard import Shard, save_shard
from fedinverse.storage import save_weights, to_weights
from pipeline.cli.main import app
from pipeline.prune import removable
from pipeline.stages.membership import membership


def members(count: int, of: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.arange(of) < count


def told(scores: np.ndarray[Any, Any], member: np.ndarray[Any, Any], draws: int = 200) -> Any:
    return told_apart(scores, member, numpy_generator(0, "test"), draws)


# ------------------------------------------------------------------ figures in closed form


def test_constant_scores_tell_nothing() -> None:
    found = told(np.ones(40), members(20, 40))
    assert (found.auc.value, found.auc.low, found.auc.high) == (0.5, 0.5, 0.5)
    assert found.balanced.value == 0.5


def test_separated_scores_tell_everything_and_the_other_way_round_nothing() -> None:
    member = ~members(20, 40)
    scores = np.arange(40.0) + 1000 * member
    assert told(scores, member).auc.value == told(scores, member).balanced.value == 1.0
    assert auc(-scores, member) == 0.0


def test_a_hand_made_curve() -> None:
    # From the highest: member, non-member, member, member, non-member; a tie at .2 of one each.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.2, 0.2])
    member = np.array([True, False, True, True, False, True, False])
    curve = roc(scores, member)
    assert curve.false.tolist() == [0, 0, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1]
    assert curve.true.tolist() == [0, 0.25, 0.25, 0.5, 0.75, 0.75, 1]
    assert [true_at(curve, rate) for rate in (0.0, 0.3, 1 / 3, 1.0)] == [0.25, 0.25, 0.75, 1.0]
    assert auc(scores, member) == pytest.approx((3 + 2 + 2 + 0.5) / 12)


def test_a_rate_needs_ten_non_members_beyond_its_threshold() -> None:
    scores, member = np.arange(1020.0), members(20, 1020)
    assert told(scores, member, 20).rates[0.01].value == 0.0
    few = told(scores[:1019], member[:1019], 20).rates
    assert isinstance(few[0.01], Omitted)
    assert "999 non-members, 1,000" in few[0.01].reason
    assert isinstance(few[0.001], Omitted)


def test_the_interval_holds_its_level_where_nothing_is_told() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(150):
        found = told(random.normal(size=80), members(40, 80))
        covered += found.auc.low <= 0.5 <= found.auc.high
    assert 0.88 <= covered / 150 <= 0.99


def test_memberships_dealt_at_random_say_how_much_is_luck() -> None:
    random = np.random.default_rng(1)
    scores, member = random.normal(size=200), members(100, 200)
    drawn, p = permuted_area(scores, member, random, 400)
    assert drawn.low < 0.5 < drawn.high
    assert p > 0.05
    _, p = permuted_area(scores + member, member, random, 400)
    assert p == pytest.approx(1 / 401)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        told(np.array([0.0, np.nan]), members(1, 2))
    with pytest.raises(ValueError, match="both are needed"):
        told(np.zeros(3), members(3, 3))


# ------------------------------------------------------------------ scores


def test_phi_of_one_half_is_zero_and_large_ones_stay_finite() -> None:
    logits = torch.tensor([[0.0, 0.0], [1000.0, 0.0], [-1000.0, 0.0], [np.log(3.0), 0.0]], dtype=torch.float64)
    phi = logit_confidence(logits, torch.zeros(4, dtype=torch.int64))
    assert phi.tolist() == pytest.approx([0.0, 1000.0, -1000.0, np.log(3.0)])


def images_and_labels(count: int = 6) -> tuple[Tensor, Tensor]:
    images = torch.randint(0, 256, (count, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % 3


def test_signals_are_what_autograd_says_of_each_record_alone() -> None:
    models = {number: build("mcnn", 3, 0.1, seed=number).eval() for number in (1, 2)}
    images, labels = images_and_labels()
    seen = signals(models, images, labels)
    model, after = models[1], models[2]
    for row in range(len(labels)):
        loss = torch.nn.functional.cross_entropy(model(images[row : row + 1].float() / 255), labels[row : row + 1])
        gradients = dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())),
                             strict=True))  # fmt: skip
        flat = torch.cat([value.flatten() for value in gradients.values()])
        step = torch.cat([(old - new).flatten() for old, new in zip(model.parameters(), after.parameters(),
                                                                  strict=True)])  # fmt: skip
        head = torch.cat([gradients[name].flatten() for name in last_layer(model)])
        assert seen.loss[0, row] == pytest.approx(loss.item(), rel=1e-4)
        assert seen.gradient[0, row] == pytest.approx(flat.norm().item(), rel=1e-3)
        assert seen.last_layer[0, row] == pytest.approx(head.norm().item(), rel=1e-3)
        cosine = torch.cosine_similarity(flat, step, dim=0)
        assert seen.cosine[0, row] == pytest.approx(cosine.item(), rel=1e-3, abs=1e-5)


def test_the_cosine_is_one_for_the_record_whose_gradient_step_the_update_is() -> None:
    model, after = (build("mcnn", 3, 0.1, seed=1).eval() for _ in range(2))
    images, labels = images_and_labels()
    loss = torch.nn.functional.cross_entropy(model(images[:1].float() / 255), labels[:1])
    with torch.no_grad():
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for weight, gradient in zip(after.parameters(), gradients, strict=True):
            weight.sub_(0.5 * gradient)
    seen = signals({3: model, 4: after}, images, labels)
    assert seen.cosine[0, 0] == pytest.approx(1.0, abs=1e-4)
    assert int(scores_of(seen)["cosine"].argmax()) == 0


def test_one_model_has_no_slope_and_no_cosine() -> None:
    images, labels = images_and_labels()
    found = scores_of(signals({5: build("mcnn", 3, 0.1, seed=1).eval()}, images, labels))
    assert "trajectory-slope" not in found
    assert "cosine" not in found
    assert "trajectory-mean" in found


def test_the_slope_of_a_line() -> None:
    rounds = torch.tensor([1.0, 4.0, 5.0], dtype=torch.float64)
    values = torch.stack([2 * rounds + 7, -rounds], 1)
    assert slope(values, rounds).tolist() == pytest.approx([2.0, -1.0])


def test_lira_ranks_by_what_the_references_do_not_explain() -> None:
    phi = torch.tensor([3.0, 3.0, 0.0], dtype=torch.float64)
    references = torch.tensor([[3.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    references = references + torch.tensor([[-0.1], [0.0], [0.1]], dtype=torch.float64)
    scored = lira_offline(phi, references)
    assert scored[1] > scored[0]
    assert scored[0] == pytest.approx(np.log(0.5))
    assert scored[2] == pytest.approx(scored[0])


def test_rmia_is_the_share_of_records_that_a_candidate_dominates() -> None:
    same = torch.zeros(1, 4, dtype=torch.float64)
    records = Population(torch.tensor([-5.0, -1.0, 1.0, 5.0], dtype=torch.float64), same)
    phi = torch.tensor([-9.0, 0.0, 9.0], dtype=torch.float64)
    assert rmia(phi, same[:, :3], records).tolist() == [0.0, 0.5, 1.0]


def test_references_are_trained_on_what_the_attacker_holds() -> None:
    images, labels = images_and_labels(8)
    held = holdings(Shard(images, labels), None, ("a", "b", "c"))
    assert held.lacking(torch.tensor([0, 2, 4])) == (4,)
    settings = References(count=2, epochs=1, batch_size=4)
    first, again = (train_references(held, ("mcnn", 3, 0.1), settings, 5, "cpu") for _ in range(2))
    assert len(first) == 2
    for one, two in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(first[0].parameters()), next(first[1].parameters()))
    nothing = Holdings(torch.empty(0), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ConfigError, match="0 images, too few"):
        train_references(nothing, ("mcnn", 3, 0.1), settings, 5, "cpu")


def test_captures_of_two_federations_are_not_mixed(tmp_path: Path) -> None:
    for number, classes in ((1, 3), (2, 4)):
        about: dict[str, str | int | float] = {"model": "mcnn", "width": 0.1, "classes": classes, "model-round": number}
        save_weights(tmp_path / f"round-{number}.safetensors", to_weights(build("mcnn", classes, 0.1, seed=0)), about)
    with pytest.raises(IntegrityError, match="two federations"):
        open_models({number: tmp_path / f"round-{number}.safetensors" for number in (1, 2)})


# ------------------------------------------------------------------ answers


def answered(shift: float, control_shift: float = 0.0, count: int = 400) -> str:
    from auditor.membership import MembershipReport

    random, member = np.random.default_rng(2), members(count // 2, count)
    control = random.normal(size=count) + control_shift * member
    line = judged("loss", random.normal(size=count) + shift * member, member, control, 0)
    report = MembershipReport(
        primary="loss",
        resolution=0.1,
        rounds=(1,),
        members=count // 2,
        others=count // 2,
        scores=(line,),
        omitted={},
    )
    return answer_to(report).outcome


def test_answers_follow_from_the_interval_and_its_controls() -> None:
    assert answered(1.0) == "yes"
    assert answered(0.0) == "no"
    assert answered(0.2, count=2000) == "in part"
    assert answered(1.0, control_shift=1.0) == "inconclusive"  # they differ without any training on them
    assert answered(0.2, count=40) == "inconclusive"  # too few candidates to say


def test_pictures_of_two_kinds_are_refused() -> None:
    images, labels = images_and_labels(50)
    one, two = Shard(images[:25], labels[:25]), Shard(images[25:], labels[25:])
    with pytest.raises(ConfigError, match="share 25 pictures"):
        candidates_between(one, one, Shard.empty(), 0)
    with pytest.raises(ConfigError, match="attacker's own images share 25"):
        candidates_between(one, two, one, 0)
    with pytest.raises(ConfigError, match="at least 20"):
        candidates_between(Shard(images[:5], labels[:5]), two, Shard.empty(), 0)
    found = candidates_between(one, two, Shard.empty(), 0)
    assert found.member.sum() == 24
    assert len(found.labels) == 48


# ------------------------------------------------------------------ of a run


@pytest.fixture(scope="module")
def asked_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that asks nothing but membership, in both worlds."""
    found = run_in(
        tmp_path_factory.mktemp("asked"),
        attacks=None,
        data={"private_limit": 600},
        population={"clients": 2},
        federation={"fraction_train": 1.0},
        membership={"with_vault": True, "references": {"count": 1, "epochs": 1}},
        audit={"without_victim": True},
    )
    assert isinstance(found, Run)
    return found


def test_a_run_answers_beside_its_controls(asked_run: Run) -> None:
    report = read_report(asked_run.files.auditor.membership)
    assert report.rounds == (0, 1, 2, 3)
    assert report.members == report.others >= 50
    names = [line.score for line in report.scores]
    assert {"loss", "trajectory-mean", "trajectory-slope", "cosine", "lira-offline", "rmia"} < set(names)
    assert [line.score for line in report.scores if not line.by_attacker] == ["lira-control", "rmia-control"]
    for line in report.scores[:6]:
        assert isinstance(line.control, Interval)
        assert line.control.low < line.control.high
    assert any("no image of 2 of the candidates' classes" in note for note in report.notes)
    page = asked_run.files.report.read_text()
    assert "Was this record used for training?" in page
    assert 'aria-label="ROC curves of the membership scores"' in page


def test_candidates_are_balanced_within_every_class(asked_run: Run) -> None:
    asked = candidates_of(asked_run, 10, with_vault=False)
    counts = pd.crosstab(asked.labels.numpy(), asked.member)
    assert counts.to_numpy().tolist() == [[10, 10], [10, 10]]
    parts = asked_run.split.set_index("row").loc[asked.rows]
    assert set(parts["part"][asked.member]) == {"train"}
    assert set(parts["client"][asked.member]) == {0}
    assert set(parts["part"][~asked.member]) == {"reserve"}


def test_a_finished_run_is_not_asked_again_unless_the_question_changes(
    asked_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = asked_run.files.auditor.membership.read_bytes()
    assert not [each for each in removable(asked_run) if each.path.parent.name == "captures"]  # what it rests on stays
    membership(asked_run)
    assert "up to date" in capsys.readouterr().out
    fewer = ["--set", "per_class=20", "--set", "rounds=[3]"]
    result = CliRunner().invoke(app, ["membership", str(asked_run.path), *fewer])
    assert result.exit_code == 0, result.output
    report = read_report(asked_run.files.auditor.membership)
    assert report.rounds == (3,)
    assert report.members == 40
    assert "models of two rounds are needed" in report.omitted["cosine"]
    answer = json.loads(asked_run.files.auditor.answer("membership").read_text())
    assert any("membership" in mark for mark in answer["marks"])  # the question was changed after the run
    again = ["--set", "per_class=500", "--set", "rounds=[]"]
    assert CliRunner().invoke(app, ["membership", str(asked_run.path), *again]).exit_code == 0
    assert read_report(asked_run.files.auditor.membership).scores == read_report_of(before).scores


def read_report_of(content: bytes) -> Any:
    from auditor.membership import MembershipReport

    return MembershipReport.model_validate_json(content)


def test_a_round_that_was_not_captured_is_refused(asked_run: Run) -> None:
    result = CliRunner().invoke(app, ["membership", str(asked_run.path), "--set", "rounds=[9]"])
    assert isinstance(result.exception, StageError)
    assert "[9]" in str(result.exception)
    result = CliRunner().invoke(app, ["membership", str(asked_run.path), "--set", "score=guess"])
    assert isinstance(result.exception, ConfigError)
    assert "trajectory-mean" in str(result.exception)


def test_a_spool_is_asked_with_two_directories_of_images(asked_run: Run, tmp_path: Path) -> None:
    asked = candidates_of(asked_run, 30, with_vault=False)
    for name, rows in (("in", asked.member), ("out", ~asked.member)):
        save_shard(tmp_path / name, Shard(asked.images[rows], asked.labels[rows]))
    spool, figures = asked_run.files.attacker.spool("with_victim"), tmp_path / "figures.json"
    told_all = ["--members", str(tmp_path / "in"), "--others", str(tmp_path / "out"), "--out", str(figures)]
    more = ["--without", str(asked_run.files.attacker.spool("without_victim")), "--set", "references.count=0"]
    result = CliRunner().invoke(app, ["membership", str(spool), *told_all, *more])
    assert result.exit_code == 0, result.output
    report = read_report(figures)
    assert report.members == int(asked.member.sum())
    assert "count is 0" in report.omitted["rmia"]
    assert isinstance(report.scores[0].control, Interval)
    result = CliRunner().invoke(app, ["membership", str(spool)])
    assert isinstance(result.exception, ConfigError)
    assert "--members" in str(result.exception)
    result = CliRunner().invoke(app, ["membership", str(tmp_path / "in"), *told_all])
    assert isinstance(result.exception, StageError)
    assert "no capture" in str(result.exception)
