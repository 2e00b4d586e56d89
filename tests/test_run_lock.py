"""One process in a run directory, and what it started ends with it; names and files that are not what they say."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from conftest import TINY, merged
from deploy_federation import until
from strategy_rounds import Load

from attacker.schedule import due
from attacker.settings import Attacker
from clients.defences import defence_class, make_defence
from fedinverse.config import parse
from fedinverse.errors import ConfigError, FedInverseError, IntegrityError, StageError
from fedinverse.lock import only_here
from fedinverse.models import Classifier, Features
from fedinverse.records import Receipt, append_lines
from fedinverse.registry import search_path
from fedinverse.seeds import seeded
from fedinverse.shard import Shard
from fedinverse.storage import (
    append_jsonl,
    load_array,
    read_json,
    read_jsonl,
    read_metadata,
    save_weights,
    weights_sha256,
    write_json,
)
from pipeline.deploy.keys import make_keys
from pipeline.deploy.local import deploy_local
from pipeline.deploy.processes import _rotate
from pipeline.engines.local import LocalGrid
from pipeline.profile import stored_times
from pipeline.stages.all_stages import run_all
from report.threat import NAMES, _listed

NOBODY = Shard(np.empty(0), np.empty(0))  # type: ignore[arg-type]


# ------------------------------------------------------------------ the lock


def test_a_second_process_is_told_who_works_in_a_run_and_writes_nothing(tiny: Load, tmp_path: Path) -> None:
    experiment = tiny()
    path = tmp_path / "runs" / "tiny"
    code = (
        "import sys, time; from pathlib import Path; from fedinverse.lock import only_here\n"
        "with only_here(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": search_path()}
    ) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            for start in (run_all, deploy_local):
                with pytest.raises(StageError, match=rf"worked on by process {holder.pid} \(.*\) since 0 minutes"):
                    start(experiment, resume=True)
            assert not path.exists()
        finally:
            holder.kill()
    with only_here(path):  # released however its holder ended
        pass
    assert not (tmp_path / "runs" / ".tiny.lock").exists()


def test_a_lock_that_led_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), only_here(tmp_path / "new" / "runs" / "one"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ processes that outlive their run


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_the_attackers_worker_ends_with_its_run(number: signal.Signals, tmp_path: Path) -> None:
    """A prior of hours is in training when the run is stopped."""
    gmi = TINY["attacks"]["gmi"]
    slow = merged(TINY, {"attacks": {"gmi": merged(gmi, {"prior": {"steps": 10**7}})}, "federation": {"rounds": 500}})
    (tmp_path / "slow.toml").write_text(tomli_w.dumps(slow))
    command = [sys.executable, "-m", "fedinverse", "run", str(tmp_path / "slow.toml"), "--out", str(tmp_path / "runs")]
    run = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": search_path()}, stdout=subprocess.DEVNULL)
    try:
        plan = f"{tmp_path}/runs/tiny/attacker/plan.json"
        workers: list[int] = []

        def started() -> bool:
            workers[:] = [
                int(place.name)
                for place in Path("/proc").glob("[0-9]*")
                if place.name != str(run.pid) and plan.encode() in _command_line(place)
            ]
            return bool(workers)

        until("the worker is there", started)
        run.send_signal(number)
        assert run.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
        until("the worker is gone", lambda: not any(map(alive, workers)), 60)
    finally:
        run.kill()
        run.wait()


def _command_line(place: Path) -> bytes:
    try:
        return (place / "cmdline").read_bytes()
    except OSError:
        return b""


# ------------------------------------------------------------------ names that become files


@pytest.mark.parametrize("name", [".", "..", "../../evil", "a/b", "", ".hidden", "x" * 101, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(name: str, tiny: Load) -> None:
    with pytest.raises(ConfigError, match="name"):
        tiny(name=name)
    if name:
        with pytest.raises(ConfigError):
            tiny(attacks={name: TINY["attacks"]["gmi"]})


# ------------------------------------------------------------------ files


def test_a_lost_capture_is_named_and_another_rounds_model_is_not_inverted_in_its_place(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"round-000{number}.safetensors"
        weights = {"w": np.zeros(1, np.float32)}
        save_weights(path, weights, {"model-round": number})
        receipt = Receipt(number, number, "evaluate", weights_sha256(weights), path.name, "7")
        append_lines(tmp_path / "receipts.jsonl", [receipt])
    last = Attacker(rounds="last")
    assert list(due(tmp_path, last, NOBODY)) == [2]
    path.unlink()
    with pytest.raises(StageError, match=r"lacks round-0002\.safetensors, the model of round 2"):
        due(tmp_path, last, NOBODY)
    assert list(due(tmp_path, Attacker(rounds=(1,)), NOBODY)) == [1]


READERS: list[Callable[[Path], Any]] = [read_json, read_jsonl, load_array, read_metadata]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_named_pipe_is_refused_and_not_waited_for(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="no regular file"):
        read(tmp_path / "pipe")


def test_a_config_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    from fedinverse.tables import read_table

    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ConfigError, match="no regular file"):
        read_table(tmp_path / "pipe.toml")


def test_a_ledger_that_is_a_link_is_not_written_to(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("{}\n")
    (tmp_path / "ledger.jsonl").symlink_to(foreign)
    with pytest.raises(IntegrityError, match="link"):
        append_jsonl(tmp_path / "ledger.jsonl", {"round": 1})
    assert foreign.read_text() == "{}\n"


def test_a_run_whose_directory_leads_out_of_it_is_neither_written_to_nor_pruned(
    attacked_run: Any, tmp_path: Path
) -> None:
    """A link within the run, such as a deployed server's to its federation, is no way out."""
    import shutil

    from fedinverse.run import Run
    from pipeline.prune import removable

    path, foreign = tmp_path / "copy", tmp_path / "foreign"
    shutil.copytree(attacked_run.path, path)
    checkpoints = path / "federation" / "with_victim" / "checkpoints"
    (path / "within").symlink_to(checkpoints)
    removable(Run(path))
    (path / "within").unlink()
    shutil.move(checkpoints, foreign)
    checkpoints.symlink_to(foreign)
    before = {file: file.read_bytes() for file in foreign.iterdir()}
    for work in (lambda: removable(Run(path)), lambda: only_here(path).__enter__()):
        with pytest.raises(IntegrityError, match=r"checkpoints is a link to .*foreign, outside this run"):
            work()
    assert {file: file.read_bytes() for file in foreign.iterdir()} == before


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o022, 0o644)])
def test_new_files_honour_the_umask(mask: int, mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedinverse.storage._UMASK", mask)
    write_json(tmp_path / "new", 1)
    assert (tmp_path / "new").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("table", [[], {"nothing": 1.0}, {"federate": "long"}, {"federate": [1]}])
def test_times_of_another_shape_are_refused_by_name(table: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "times.json", table)
    with pytest.raises(IntegrityError, match=r"times\.json"):
        stored_times(tmp_path / "times.json")


def test_keys_that_others_may_read_and_an_authority_that_is_none_are_refused(tmp_path: Path) -> None:
    keys = make_keys(tmp_path / "keys", 1)
    make_keys(tmp_path / "keys", 1)
    keys.node(0).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        make_keys(tmp_path / "keys", 1)
    keys.node(0).chmod(0o600)
    other = make_keys(tmp_path / "other", 0)
    for content in (b"garbage", other.authority.read_bytes()):
        keys.authority.write_bytes(content)
        with pytest.raises(IntegrityError, match=r"ca\.pem"):
            make_keys(tmp_path / "keys", 1)


def test_certificates_that_have_run_out_and_a_key_of_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"ca\.pem was valid until 20\d\d-"):
        make_keys(tmp_path / "old", 0, days=0)
    keys, other = make_keys(tmp_path / "keys", 0), make_keys(tmp_path / "other", 0)
    for content, said in ((b"garbage", "not a readable key"), (other.certificate_key.read_bytes(), "not the key of")):
        keys.certificate_key.write_bytes(content)
        with pytest.raises(IntegrityError, match=rf"server\.key is {said}"):
            make_keys(tmp_path / "keys", 0)


def test_a_log_that_grew_is_begun_anew_while_its_writer_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.deploy.processes._LOG", 100)
    log = tmp_path / "superlink.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 200)
        _rotate(log)
        writer.write(b"on")
    assert log.read_bytes() == b"on"
    assert (tmp_path / "superlink.log.1").read_bytes() == b"x" * 200


# ------------------------------------------------------------------ the rest


def test_the_local_engine_keeps_the_timeout(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strategy_rounds import federated

    answer = LocalGrid._answer

    def slow(self: LocalGrid, message: Any) -> Any:
        if message.metadata.message_type == "train" and message.metadata.dst_node_id == 2:
            time.sleep(3.0)
        return answer(self, message)

    monkeypatch.setattr(LocalGrid, "_answer", slow)
    federation = {"rounds": 1, "fraction_train": 1.0, "fraction_evaluate": 0.0, "timeout": 2.5}
    run = federated(tiny(federation=federation), tmp_path / "run")
    lines = read_jsonl(run.files.server.client_reports("with_victim"))
    assert {line["partition"] for line in lines if "no reply within 2.5 s" in line.get("error", "")} >= {1, 2, 3}


def test_a_threat_model_names_a_few_classes_and_counts_the_others() -> None:
    assert _listed(["a", "b\x1b[31m"]) == "a, b\\x1b[31m"
    many = _listed([f"c{number}" for number in range(3000)])
    assert many.endswith(f" and {3000 - NAMES} more")
    assert len(many) < 200


class Tied(Classifier):
    """Two names for one layer."""

    input_shape, classes = (1, 32, 32), 10

    def __init__(self) -> None:
        import torch

        super().__init__()
        self.one = torch.nn.Linear(1024, 10)
        self.two = self.one

    def features(self, images: Any) -> Features:
        raise NotImplementedError


class Recurrent(Tied):
    """With an LSTM."""

    def __init__(self) -> None:
        import torch

        super().__init__()
        del self.two
        self.cells = torch.nn.LSTM(10, 10)


@pytest.mark.parametrize(("network", "name"), [(Tied, "'two.weight', which is 'one.weight'"), (Recurrent, "'cells'")])
def test_dp_sgd_refuses_what_it_would_count_twice_or_not_at_all(network: type[Classifier], name: str) -> None:
    defence = defence_class("dp_sgd")
    with pytest.raises(FedInverseError, match=name):
        defence.check(parse(defence.Settings, {}, "", "test"), network())


class Beside(Classifier):
    """Whose second use of a weight no layer sees; with ``mixing``, whose images see one another."""

    input_shape, classes = (1, 32, 32), 10

    def __init__(self, *, beside: bool = False, mixing: bool = False) -> None:
        import torch

        super().__init__()
        self.beside, self.mixing = beside, mixing
        self.one, self.two = torch.nn.Linear(1024, 10), torch.nn.Linear(10, 10)

    def features(self, images: Any) -> Features:
        import torch

        flat = self.one(images.flatten(1) - (images.mean() if self.mixing else 0))
        logits = torch.nn.functional.linear(flat, self.two.weight) if self.beside else flat
        return Features((flat,), flat, self.two(logits))


@pytest.mark.parametrize("how", ["beside", "mixing"])
def test_dp_sgd_refuses_gradients_that_are_not_those_of_one_image(how: str) -> None:
    import torch

    defence = make_defence("dp_sgd", {}, "test")
    with seeded(0):
        networks = [Beside(), Beside(**{how: True})]
        brightness = torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1, 1)
        images, labels = brightness * torch.rand(3, 1, 32, 32), torch.tensor([0, 1, 2])
    defence.try_on(networks[0], images, labels)
    with pytest.raises(ConfigError, match=r"'(one|two)\.weight': Opacus' gradient of one image is not"):
        defence.try_on(networks[1], images, labels)


def test_a_report_without_its_scores_is_refused_and_the_audit_remakes_them(attacked_run: Any, tmp_path: Path) -> None:
    import shutil

    from fedinverse.run import Run
    from pipeline.stages.outcome import audit_and_gather
    from pipeline.stages.report import report

    path = tmp_path / "copy"
    shutil.copytree(attacked_run.path, path, symlinks=True)
    run = Run(path)
    before = json.loads(run.files.verdict.read_text())
    run.files.auditor.scores.unlink()
    with pytest.raises(StageError, match="audit the run first"):
        report(run)
    run.files.verdict.write_text("[]")
    audit_and_gather(run)
    assert json.loads(run.files.verdict.read_text()) == before
    report(run)
    run.files.auditor.scores.write_bytes(b"PAR1 nothing")
    with pytest.raises(IntegrityError, match=r"scores\.parquet"):
        report(run)
