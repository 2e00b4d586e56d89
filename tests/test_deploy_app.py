"""Beside a SuperNode of somebody else's federation, over its own wire: their fab, our capture by the environment."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from deploy_federation import WAIT, processes_of, until

from attacker.worker import Plan
from fedinverse.storage import load_weights, read_jsonl
from pipeline.deploy import commands
from pipeline.deploy.attacker import HOOK, environment, plan_beside_app
from pipeline.deploy.fleet import Fleet
from pipeline.deploy.processes import Processes

SIGNS = Path(__file__).resolve().parent.parent / "examples" / "signs"
QUICK = [
    "attack={kind='gmi', iterations=2, prior={width=0.1, steps=1, critic_steps=1, batch_size=8}}",
    "schedule={restarts=1, rounds='every', classes=[0]}",
]
ROUNDS = 1


def test_a_supernode_of_another_federation_captures_and_its_worker_inverts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "operator" / "spool"
    plan = plan_beside_app(SIGNS, spool, None, QUICK)
    plan.write(tmp_path / "operator" / "plan.json")
    fleet = Fleet.on_loopback(tmp_path / "fleet", 2)
    processes = Processes()
    try:
        fleet.start_superlink(processes)
        control = fleet.connect(register=range(2))
        fleet.start_node(processes, 0, {"partition-id": 0, "num-partitions": 2})
        with monkeypatch.context() as operator:
            operator.setenv("FEDINVERSE_CAPTURE", environment(spool)["FEDINVERSE_CAPTURE"])
            operator.syspath_prepend(HOOK)  # the fleet's own commands make the PYTHONPATH of what this process imports
            fleet.start_node(processes, 1, {"partition-id": 1, "num-partitions": 2})
        config = commands.settings({"num-server-rounds": ROUNDS, "local-epochs": 1})
        submit = ["flwr", "run", str(SIGNS), commands.CONNECTION, "--run-config", config, "--format", "json"]
        done = subprocess.run(
            commands.program(submit),
            cwd=tmp_path,
            env=commands.environment(control.home),
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT,
        )
        assert "run-id" in done.stdout, done.stdout + done.stderr
        run_id = str(json.loads(done.stdout)["run-id"])
        until("the run is over", lambda: control.status(run_id).startswith("finished"))
        assert control.status(run_id) == "finished:completed", control.fetch_log(run_id).read_text()
    finally:
        processes.stop()
    until("nothing is left", lambda: not processes_of(tmp_path / "fleet"), 30)
    received = read_jsonl(spool / "receipts.jsonl")
    assert [(line["round"], line["message-type"]) for line in received] == [(1, "train"), (1, "evaluate")]
    weights, about = load_weights(spool / "round-0000.safetensors")
    assert "norm1.weight" in weights
    assert about["model"].startswith("signs.task:Net?shape=3,32,32")
    Plan.stop(tmp_path / "operator" / "plan.json").touch()
    worker = [sys.executable, "-m", "attacker.worker", str(tmp_path / "operator" / "plan.json"), "--watch"]
    subprocess.run(worker, env={**os.environ, **environment(spool)}, check=True, timeout=WAIT)
    assert len(list((tmp_path / "operator" / "inversions").glob("gmi/*/about.json"))) == ROUNDS + 1


def test_a_capture_that_cannot_work_leaves_their_app_alone(tmp_path: Path) -> None:
    """No settings, no FedInverse, another sitecustomize: the ClientApp answers as it would."""
    other = tmp_path / "site"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import os\nos.environ['OTHER'] = 'ran'\n")
    code = (
        "import os\nfrom flwr.app import Context, Message, RecordDict\nfrom flwr.clientapp import ClientApp\n"
        "from flwr.supercore.task_identity import TaskIdentity\n"
        "TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0\n"
        "app = ClientApp()\n@app.train()\ndef train(message, context):\n    return 'answered'\n"
        "message = Message(RecordDict(), 5, 'train')\n"
        "print(app(message, Context(1, 5, {}, RecordDict(), {})), os.environ.get('OTHER'))\n"
    )
    for capture in (str(tmp_path / "absent.json"), str(tmp_path)):
        variables = environment(tmp_path / "spool") | {"FEDINVERSE_CAPTURE": capture}
        variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"].split(os.pathsep)[0], str(other)])
        with suppress(KeyError):
            variables["PATH"] = os.environ["PATH"]
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "answered ran", done.stderr
