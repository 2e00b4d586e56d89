"""Update inversion: the others' mean update, its labels and images; several malicious clients who pool."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor, nn
from typer.testing import CliRunner

from attacker.capture import capture
from attacker.schedule import captured, check_received, due
from attacker.settings import Attacker, Updates
from attacker.updates.pairs import pairs
from attacker.updates.update_inversion import (
    LocalTraining,
    as_tensors,
    dealt,
    label_shares,
    others_update,
    reconstruct,
)
from attacker.worker import Bench
from auditor.evaluators.embedding import fit_embedding
from auditor.questions import QUESTIONS, answer_of
from auditor.updates import ATTACK, RANDOM, WITHOUT, Lead, UpdateExhibit, compared, lead, matched
from auditor.verdict import read_verdict
from clients.defences import make_defence
from clients.settings import Training
from clients.training import train
from fedinverse.arrays import to_record
from fedinverse.client_data import shard_of
from fedinverse.data.source import unit
from fedinverse.errors import ConfigError, FedInverseError, IntegrityError, StageError
from fedinverse.layout import WITH_VICTIM, spools_of
from fedinverse.messages import ARRAYS, CONFIG
from fedinverse.models.classifier import Classifier, Features
from fedinverse.private import part_of
from fedinverse.run import Run, prepare
from fedinverse.seeds import generator
from fedinverse.shard import Shard
from fedinverse.storage import append_jsonl, load_weights, to_weights
from pipeline.cli.main import app
from pipeline.engines import run_federation
from pipeline.experiment import resolved
from pipeline.stages.invert import plan_of
from pipeline.stages.updates import read_of_updates, rehearsed, seat_of_run, updates

NOTHING = Shard(torch.empty(0), torch.empty(0))


def message(kind: str, server_round: int, value: float, node: int = 5, width: float = 0.1) -> Message:
    config = ConfigRecord({"server-round": server_round, "model": "mcnn", "width": width, "classes": 10})
    weights = to_record({"w": np.full(3, value, np.float32)})
    return Message(RecordDict({ARRAYS: weights, CONFIG: config}), node, kind)


def receive(spool: Path, *messages: Message, reply: float = 9.0) -> None:
    context = Context(1, 5, {"partition-id": 4, "spool": str(spool)}, RecordDict(), {})
    back = RecordDict({ARRAYS: to_record({"w": np.full(3, reply, np.float32)})})
    for each in messages:
        capture(each, context, lambda received, _: Message(back, reply_to=received))


def test_the_mod_keeps_what_the_node_sends_back_of_train_messages_alone(tmp_path: Path) -> None:
    receive(tmp_path, message("train", 2, 1.0), message("evaluate", 2, 2.0))
    kept = list((tmp_path / "replies").iterdir())
    assert [path.name for path in kept] == ["round-0002-5.safetensors"]
    assert load_weights(kept[0])[0]["w"].tolist() == [9.0, 9.0, 9.0]
    (pair,) = pairs([tmp_path], Updates())
    assert (pair.round, pair.before.name, pair.after.name) == (2, "round-0001.safetensors", "round-0002.safetensors")
    assert pair.replies == (kept[0],)
    kept[0].unlink()  # as a spool of before replies were kept
    assert (pairs([tmp_path], Updates())[0].replies, pairs([tmp_path], Updates())[0].unkept) == ((), 1)


def test_malicious_clients_who_pool_see_a_round_that_any_of_them_saw(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    receive(one, message("evaluate", 1, 1.0), message("evaluate", 3, 3.0))
    receive(other, message("train", 3, 2.0, node=6))
    assert list(captured(one, other)) == [1, 2, 3]
    with pytest.raises(StageError, match="received only"):
        due(one, Attacker(rounds=(2,)), NOTHING)
    assert list(due(one, Attacker(rounds=(2,)), NOTHING, pooled=[other])) == [2]
    with pytest.raises(StageError, match="no two of consecutive rounds"):
        pairs([one], Updates())
    assert [(pair.round, len(pair.replies)) for pair in pairs([one, other], Updates(rounds="every"))] == [
        (2, 0),
        (3, 1),
    ]


def test_a_capture_of_another_federation_in_the_same_spool_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    receive(one, message("evaluate", 1, 1.0), message("evaluate", 2, 2.0), message("evaluate", 2, 2.5))
    receive(other, message("evaluate", 1, 7.0))
    check_received(one, other)  # two models of one round, both received: the server was restarted
    (one / "round-0001.safetensors").write_bytes((other / "round-0001.safetensors").read_bytes())
    for attempt in (lambda: pairs([one], Updates()), lambda: due(one, Attacker(rounds=(2,)), NOTHING)):
        with pytest.raises(IntegrityError, match=r"round-0001\.safetensors is not the model that receipts\.jsonl"):
            attempt()


def test_those_of_a_run_pool_spools_and_images(tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", resolved(tiny(population={"malicious": 2})))
    first, second = run.files.attacker.spool("with_victim"), run.files.attacker.accomplice_spool("with_victim", 3)
    receive(first, message("evaluate", 1, 1.0))
    receive(second, message("evaluate", 2, 2.0, node=6))
    assert spools_of(run.files.attacker, "with_victim") == (first, second)
    bench = Bench(plan_of(run))
    assert [job.weights.parent for job in bench.jobs()] == [second]  # the last round, which the first did not see
    assert len(bench.shard) == sum(len(shard_of(run, client, "with_victim")) for client in (2, 3))


def test_every_malicious_client_of_a_federation_keeps_its_reply(tiny: Callable[..., Any], tmp_path: Path) -> None:
    federation = {"rounds": 1, "fraction_train": 1.0}
    experiment = tiny(population={"malicious": 2}, federation=federation, updates={"images": 2, "iterations": 2})
    run = prepare(tmp_path / "run", resolved(experiment))
    assert rehearsed(run, experiment.updates) > 0  # as it is tried before the run
    run_federation(run, "with_victim", experiment.engine)
    (pair,) = pairs(spools_of(run.files.attacker, "with_victim"), experiment.updates)
    assert (len(pair.replies), pair.unkept, seat_of_run(run, experiment.updates).share) == (2, 0, 1 / 4)
    assert read_of_updates(run) == {pair.before, pair.after, *pair.replies}  # what pruning leaves
    assert updates(run).outcome == "inconclusive"  # there is no federation without the victim


def test_a_network_whose_labels_cannot_be_read_is_refused_before_the_run(
    tiny: Callable[..., Any], tmp_path: Path
) -> None:
    experiment = tiny(updates={}, model={"name": "test_updates:Headless"})
    run = prepare(tmp_path / "run", resolved(experiment))
    with pytest.raises(ConfigError, match="last linear layer"):
        rehearsed(run, experiment.updates)


class Headless(Classifier):
    """Its last layer is a convolution."""

    input_shape = (1, 32, 32)

    def __init__(self, classes: int, width: float = 1.0) -> None:
        super().__init__()
        self.last = nn.Conv2d(1, classes, 32)

    def features(self, images: Tensor) -> Features:
        flat = images.flatten(1)
        return Features((), flat, self.last(images).flatten(1))


def test_captures_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one, other, wide = tmp_path / "one", tmp_path / "other", tmp_path / "wide"
    receive(one, message("evaluate", 1, 1.0), message("evaluate", 2, 2.0))
    receive(other, message("evaluate", 2, 7.0))
    with pytest.raises(IntegrityError, match=r"different models of round 2.*two federations"):
        pairs([one, other], Updates())
    with pytest.raises(StageError, match=r"asks for \[5\]"):
        pairs([one], Updates(rounds=(5,)))
    receive(wide, message("evaluate", 3, 3.0, width=0.2))
    with pytest.raises(IntegrityError, match=r"different networks \(width 0\.1 and 0\.2\)"):
        pairs([one, wide], Updates())
    with pytest.raises(StageError, match="none"):
        pairs([tmp_path / "empty"], Updates())
    receive(one, message("evaluate", 3, 3.0), message("evaluate", 4, 4.0))
    with pytest.raises(IntegrityError, match="different models of round 2"):
        pairs([one, other], Updates())  # the last pair is of one of them alone


class Softmax(Classifier):
    """A linear layer on the pixels."""

    input_shape, classes = (1, 16, 16), 3

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(256, 3)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Features:
        flat = images.flatten(1)
        return Features((), flat, self.head(flat))


def after_training(start: Classifier, shard: Shard, epochs: int = 1) -> Classifier:
    trained = copy.deepcopy(start)
    settings = Training(epochs=epochs, batch_size=100, lr=0.5, momentum=0.0)
    train(trained, shard, settings, make_defence("none", {}, "test"), generator(0, "test"))
    return trained


def drawn(*labels: int) -> Shard:
    images = torch.randint(0, 256, (len(labels), 1, 16, 16), generator=generator(0, *labels), dtype=torch.uint8)
    return Shard(images, torch.tensor(labels))


def update_between(start: Classifier, end: Classifier) -> dict[str, Tensor]:
    before, after = (as_tensors(to_weights(each)) for each in (start, end))
    return others_update(before, after, [], 0.5)


def test_one_step_on_one_image_of_a_linear_model_gives_the_image_away() -> None:
    """Two clients, one step each on the whole shard, the other's of one image: x is a row of dW over db."""
    start, private = Softmax(), drawn(1)
    shard, other = (after_training(start, shard) for shard in (drawn(0, 2, 2), private))
    before, sent, theirs = (as_tensors(to_weights(each)) for each in (start, shard, other))
    average = {name: (sent[name] + theirs[name]) / 2 for name in before}
    update = others_update(before, average, [sent], 1 / 2)
    bias = update["head.bias"]
    row = int(bias.abs().argmax())
    torch.testing.assert_close(
        (update["head.weight"][row] / bias[row]).float(), unit(private.images).flatten(), atol=1e-4, rtol=0
    )
    assert int(bias.argmax()) == 1  # the one class whose probability was raised
    images, distance = reconstruct(
        start,
        update,
        private.labels,
        Updates(iterations=300, tv=0.0, signed=False),
        LocalTraining(1, 0.5),
        generator(0, "x"),
    )
    assert distance < 1e-3
    assert float((images - unit(private.images)).abs().mean()) < 0.1


@pytest.mark.parametrize("epochs", [1, 3])
def test_counts_of_labels_are_read_from_the_bias(epochs: int) -> None:
    """From uniform predictions one step gives them exactly; three are solved by least squares."""
    private = drawn(0, 0, 0, 0, 0, 1, 1, 1, 2, 2)
    start = Softmax(zero=True)
    end = after_training(start, Shard(private.images // 64, private.labels), epochs)
    shares = label_shares(start, end, update_between(start, end), LocalTraining(epochs, 0.5), drawn())
    if epochs == 1:
        torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), atol=1e-6, rtol=0)
    assert dealt(shares, 10).bincount(minlength=3).tolist() == [5, 3, 2]


def test_without_a_bias_the_rows_of_the_weight_are_summed() -> None:
    start, private = Softmax(zero=True), drawn(1, 1, 2)
    start.head = nn.Linear(256, 3, bias=False)
    nn.init.zeros_(start.head.weight)
    end = after_training(start, private)
    update, training = update_between(start, end), LocalTraining(1, 0.5)
    shares = label_shares(start, end, update, training, drawn(0, 1, 2))
    torch.testing.assert_close(shares, torch.tensor([0, 2 / 3, 1 / 3], dtype=torch.float64), atol=0.05, rtol=0)
    with pytest.raises(StageError, match="no bias"):
        label_shares(start, end, update, training, drawn())


def test_unrolled_steps_are_the_steps_that_were_taken() -> None:
    start, private = Softmax(), drawn(0, 1, 2, 2)
    end = after_training(start, private, epochs=3)
    update = update_between(start, end)
    distances = [
        reconstruct_distance(start, update, private, LocalTraining(3, 0.5, 0.0, 4), steps)
        for steps in ("simulate", "gradient")
    ]
    assert distances[0] < 1e-6 < distances[1]


def reconstruct_distance(start: Classifier, update: Any, private: Shard, training: Any, steps: Any) -> float:
    """How far the true images are from explaining the update: a rate of nearly 0 leaves the start where it is."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "rand", lambda *_, **__: unit(private.images))
        settings = Updates(iterations=1, lr=1e-12, steps=steps, signed=False)
        return reconstruct(start, update, private.labels, settings, training, generator(0, "x"))[1]


def test_every_reconstruction_is_matched_to_another_image() -> None:
    private = drawn(0, 0, 0, 1)
    embedding = fit_embedding(torch.randint(0, 256, (100, 1, 16, 16), dtype=torch.uint8, generator=generator(1)))
    shuffled = unit(private.images[[2, 0, 3, 1]])
    found = matched(shuffled, torch.tensor([0, 0, 1, 0]), private, embedding)
    assert sorted(found.labels.tolist()) == [0, 0, 0, 1]
    np.testing.assert_allclose(found.psnr, 100)
    np.testing.assert_allclose(found.ssim, 1, atol=1e-4)
    np.testing.assert_allclose(found.distance, 0, atol=1e-3)
    grey = matched(unit(private.images[:1]) * 0 + 0.5, torch.tensor([0]), private, embedding)
    error = (unit(private.images[:3]) - 0.5).square().flatten(1).mean(1).min()
    np.testing.assert_allclose(grey.psnr, -10 * error.log10().item(), rtol=1e-5)


def test_a_lead_needs_three_cells() -> None:
    assert lead([10, 12], [9, 9]) == Lead(2.0, -np.inf, np.inf)
    found = lead([10, 12, 14], [9, 9, 9])
    assert (found.value, round(found.low, 3)) == (3.0, round(3 - 4.302653 * 2 / np.sqrt(3), 3))


def test_of_a_finished_run_the_answer_joins_verdict_and_report(attacked_run: Any, tmp_path: Path) -> None:
    run = Run(shutil.copytree(attacked_run.path, tmp_path / "run"))
    asked = ["updates", str(run.path), "--set", 'rounds="every"', "--set", "images=6", "--set", "iterations=3"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    answer = read_verdict(run.files.verdict).answers[1]
    assert answer == answer_of(Run(run.path), QUESTIONS[1])
    assert answer.outcome in ("no", "inconclusive")  # three steps: nothing is seen
    assert any("local steps" in mark for mark in answer.marks)
    assert any("Not fixed before the run: updates" in mark for mark in answer.marks)
    assert read_verdict(run.files.verdict).marks == read_verdict(attacked_run.files.verdict).marks
    assert answer.figures["label error"] is not None
    assert run.files.auditor.updates_picture.exists()
    page = run.files.report.read_text()
    assert "local steps in a round" in page
    assert "Images from the others&#39; update" in page
    written = sorted((path, path.stat().st_mtime_ns) for path in run.files.attacker.updates.rglob("*"))
    before = run.files.auditor.answer("updates").stat().st_mtime_ns
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in run.files.attacker.updates.rglob("*")) == written
    assert run.files.auditor.answer("updates").stat().st_mtime_ns == before


def test_of_a_spool_it_asks_how_the_others_train(attacked_run: Any, tmp_path: Path) -> None:
    spool, out = attacked_run.files.attacker.spool("with_victim"), tmp_path / "out"
    common = ["updates", str(spool), "--out", str(out), "--set", "images=4", "--set", "iterations=2"]

    def refused(*more: str) -> str:
        done = CliRunner().invoke(app, [*common, *more])
        assert isinstance(done.exception, FedInverseError)
        return str(done.exception)

    assert "updates.local_steps" in refused()
    trained = ["--set", "local_steps=3", "--set", "rate=0.05"]
    rounds = [pair.round for pair in pairs([spool], Updates(rounds="every")) if pair.replies]
    assert "updates.share" in refused(*trained, "--set", f"rounds=[{rounds[-1]}]")
    done = CliRunner().invoke(app, [*common, *trained, "--clients", "2"])
    assert done.exit_code == 0, done.output
    (made,) = out.iterdir()
    assert load_weights(made / "reconstructions.safetensors")[0]["images"].shape == (4, 1, 32, 32)
    assert (made / "reconstructions.png").exists()
    assert "leave everything" in str(
        CliRunner().invoke(app, ["updates", str(attacked_run.path), "--clients", "3"]).exception
    )


def test_what_cannot_be_asked_is_refused_before_any_work(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="sgd"):
        tiny(updates={}, training={"optimizer": "adam"})
    with pytest.raises(ConfigError, match=r"rounds run from 1 to 3"):
        tiny(updates={"rounds": [4]})
    with pytest.raises(ConfigError, match=r"\[updates\]"):
        tiny(updates={}, attacks=None, population={"malicious": 0})


def test_of_a_victim_who_shares_their_classes_it_is_asked_too(tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", resolved(tiny(updates={}, population={"victim_classes": []})))
    line = {"round": 1, "message-type": "train", "partition": run.population.victim, "node": "0", "sha256": "0"}
    append_jsonl(run.files.server.ledger(WITH_VICTIM), line)
    victims = part_of(run, "train", victim_only=True)
    assert set(victims.labels.tolist()) == set(run.victim_classes) != set()
    exhibits = [
        UpdateExhibit(arm, 1, unit(victims.images[:2]), victims.labels[:2], torch.zeros(10))
        for arm in (ATTACK, WITHOUT)
    ]
    cells = compared(run, exhibits)
    assert {label for _, label in cells[ATTACK]} == set(victims.labels[:2].tolist())
    assert cells[ATTACK].keys() == cells[RANDOM].keys()
    assert all(cell.psnr.min() > 90 for cell in cells[ATTACK].values())  # their images come back as themselves


def test_own_replies_are_taken_off_the_average() -> None:
    start, replies, others = (torch.randn(n, 4, dtype=torch.float64) for n in (1, 2, 3))
    after = torch.cat([replies, others]).mean(0)
    found = others_update({"w": start[0]}, {"w": after}, [{"w": reply} for reply in replies], 1 / 5)
    torch.testing.assert_close(found["w"], others.mean(0) - start[0])
    with pytest.raises(StageError, match="leave nothing"):
        others_update({"w": start[0]}, {"w": after}, [{"w": reply} for reply in replies], 0.5)
