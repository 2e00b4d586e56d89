"""One federation in one framework, for ``benchmarks/simulation.py``: each variant runs in a process of its own.

    python benchmarks/peers.py VARIANT WORK.json

Every variant trains the same network on the same client shards with the same hyper-parameters: E = 1, SGD, FedAvg by
example count, ``sampled`` clients a round; who is sampled, and the order of batches, is each framework's own. It
prints the times at which its rounds ended.

- ``floor``: two processes of one thread with a shared queue of clients, channels-last, nothing stored or checked;
- ``loop``: the same in one process;
- ``flower``: Flower's simulation runtime, a plain ServerApp and ClientApp with FedAvg, as its documentation shows them;
- ``pfl``: apple/pfl-research, its FederatedAveraging and PyTorchModel, one process;
- ``pfl2``: the same in two processes, started by ``torch.distributed.run``: each trains every second client of a round,
  and their sums are added by gloo's all-reduce;
- ``fedlab``: FedLab's standalone pipeline with its serial trainer, one process.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedinverse.machine import keep_freed_memory
from fedinverse.models import Classifier, build
from fedinverse.storage import save_weights, to_weights

Shards = list[tuple[Tensor, Tensor]]


class Work:
    """What is to be done: ``model``, ``width``, ``batch_size``, ``lr``, ``rounds``, ``sampled``, ``data``."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.model, self.width = str(table["model"]), float(table["width"])
        self.batch, self.lr = int(table["batch_size"]), float(table["lr"])
        self.rounds, self.sampled, self.data = int(table["rounds"]), int(table["sampled"]), Path(table["data"])

    def network(self) -> Classifier:
        """Return the network, as initialised for all."""
        return build(self.model, 10, self.width, seed=0)

    def shards(self, layout: torch.memory_format = torch.channels_last) -> Shards:
        """Return every client's images as float [N, C, H, W] in [0, 1] and labels."""
        with np.load(self.data) as held:
            clients = int(held["clients"])
            return [
                (torch.from_numpy(held[f"images{client}"]).float().div_(255).contiguous(memory_format=layout),
                 torch.from_numpy(held[f"labels{client}"]))
                for client in range(clients)
            ]  # fmt: skip


def train(network: Classifier, shard: tuple[Tensor, Tensor], work: Work) -> None:
    """Train one local epoch."""
    images, labels = shard
    optimizer = torch.optim.SGD(network.parameters(), work.lr, foreach=True)
    network.train()
    for rows in torch.randperm(len(labels)).split(work.batch):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()


def flat(network: Classifier) -> Tensor:
    """Return all parameters and floating buffers as one vector."""
    return torch.cat([value.detach().flatten().float() for value in network.state_dict().values()])


def fill(network: Classifier, vector: Tensor) -> None:
    """Copy a vector made by ``flat`` into ``network``."""
    start = 0
    for value in network.state_dict().values():
        value.copy_(vector[start : start + value.numel()].view_as(value))
        start += value.numel()


class Extras:
    """What our engines do after every round: evaluate the new model on the held-out images, hash and store it."""

    def __init__(self, work: Work) -> None:
        with np.load(work.data) as held:
            self._images, self._labels = torch.from_numpy(held["held_out"]), torch.from_numpy(held["held_out_labels"])
        self._network, self._path = work.network().to(memory_format=torch.channels_last), work.data.parent / "kept"
        self._round = 0

    def __call__(self, vector: Tensor) -> float:
        """Return the accuracy of the model ``vector``."""
        fill(self._network, vector)
        self._network.eval()
        with torch.inference_mode():
            logits = self._network(self._images.float().div_(255).contiguous(memory_format=torch.channels_last))
        accuracy = float((logits.argmax(1) == self._labels).float().mean())
        self._round += 1
        about = {"accuracy": accuracy}
        save_weights(self._path / f"{self._round}.safetensors", to_weights(self._network), about)
        return accuracy


def loop(work: Work, ends: list[float]) -> None:
    """Run all clients one after the other."""
    network, shards = work.network().to(memory_format=torch.channels_last), work.shards()
    model = flat(network)
    for _ in range(work.rounds):
        total, count = torch.zeros_like(model), 0
        for client in np.random.permutation(len(shards))[: work.sampled]:
            fill(network, model)
            train(network, shards[client], work)
            total += flat(network) * len(shards[client][1])
            count += len(shards[client][1])
        model = total / count
        ends.append(time.time())


def _serve(work: Work, model: Tensor, total: Tensor, queue: Any, done: Any) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # a floor knows every trick that we know
    network, shards = work.network().to(memory_format=torch.channels_last), work.shards()
    mine, count = torch.zeros_like(model), 0
    while (client := queue.get()) is not None:
        if client < 0:
            total.copy_(mine)
            done.put(count)
            mine.zero_()
            count = 0
            continue
        fill(network, model)
        train(network, shards[client], work)
        mine += flat(network) * len(shards[client][1])
        count += len(shards[client][1])


def floor_all(work: Work, ends: list[float]) -> None:
    """Run the floor, and beside the next round do what our engines do after each."""
    extras = Extras(work)
    with ThreadPoolExecutor(1) as beside:
        floor(work, ends, lambda vector: beside.submit(extras, vector.clone()))


def floor(work: Work, ends: list[float], after_round: Callable[[Tensor], Any] | None = None) -> None:
    """Run two processes that share the queue of a round's clients; sums live in shared memory."""
    import torch.multiprocessing as processes

    context = processes.get_context("spawn")
    model = flat(work.network()).share_memory_()
    totals = [torch.zeros_like(model).share_memory_() for _ in range(2)]
    queues, done = [context.Queue() for _ in range(2)], context.Queue()
    workers = [
        context.Process(target=_serve, args=(work, model, total, queue, done), daemon=True)
        for total, queue in zip(totals, queues, strict=True)
    ]
    for worker in workers:
        worker.start()
    with np.load(work.data) as held:
        clients = int(held["clients"])
    for _ in range(work.rounds):
        for place, client in enumerate(np.random.permutation(clients)[: work.sampled].tolist()):
            queues[place % 2].put(client)  # equal shards: dealing out is as good as one queue, and needs no lock
        for queue in queues:
            queue.put(-1)
        count = sum(done.get() for _ in workers)
        model.copy_(sum(totals[1:], totals[0]) / count)
        if after_round is not None:
            after_round(model)
        ends.append(time.time())
    for queue in queues:
        queue.put(None)


def flower(work: Work, ends: list[float]) -> None:
    """Run Flower's simulation runtime."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app = ClientApp(), ServerApp()
    with np.load(work.data) as held:
        clients = int(held["clients"])

    @client_app.train()
    def fit(message: Message, context: Context) -> Message:
        network, held = work.network(), np.load(work.data)
        network.load_state_dict(message.content["arrays"].to_torch_state_dict())
        client = context.node_config["partition-id"]
        images = torch.from_numpy(held[f"images{client}"]).float().div_(255)
        labels = torch.from_numpy(held[f"labels{client}"])
        train(network, (images, labels), work)
        metrics = MetricRecord({"num-examples": len(labels)})
        return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)

    def noted(server_round: int, arrays: ArrayRecord) -> None:
        if server_round:
            ends.append(time.time())

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        share = work.sampled / clients
        strategy = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_available_nodes=clients)
        start = ArrayRecord(work.network().state_dict())
        strategy.start(grid=grid, initial_arrays=start, num_rounds=work.rounds, evaluate_fn=noted)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    run_simulation(server_app=server_app, client_app=client_app, num_supernodes=clients, backend_config=resources)


def pfl_all(work: Work, ends: list[float]) -> None:
    """Run apple/pfl-research, and after every round what our engines do."""
    pfl(work, ends, Extras(work) if os.environ.get("RANK", "0") == "0" else None)


def pfl(work: Work, ends: list[float], after_round: Callable[[Tensor], Any] | None = None) -> None:
    """Run apple/pfl-research."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = work.network().to(memory_format=torch.channels_last)

        def loss(self, images: Tensor, labels: Tensor, is_eval: bool = False) -> Tensor:
            self.train(not is_eval)
            return F.cross_entropy(self.inner(images), labels)

        def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
            return {}

    class Ends(TrainingProcessCallback):
        def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
            if after_round is not None:
                after_round(flat(net.inner))
            ends.append(time.time())
            return False, Metrics()

    np.random.seed(0)  # pfl's sampler draws from it: processes that share a round must draw the same clients
    held, net = work.shards(), Net()
    data = FederatedDataset(
        lambda client: PyTorchTensorDataset(held[client]), get_user_sampler("random", list(range(len(held))))
    )
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), 1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            work.rounds, evaluation_frequency=10**6, train_cohort_size=work.sampled, val_cohort_size=None
        ),
        SimulatedBackend(data, None, []),
        model,
        NNTrainHyperParams(local_batch_size=work.batch, local_num_epochs=1, local_learning_rate=work.lr),
        callbacks=[Ends()],
    )


def fedlab(work: Work, ends: list[float]) -> None:
    """Run FedLab's standalone pipeline."""
    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.contrib.algorithm.basic_server import SyncServerHandler
    from fedlab.core.standalone import StandalonePipeline

    held = work.shards(torch.contiguous_format)

    class Data:
        def get_dataloader(self, client: int, batch_size: int) -> Any:
            dataset = torch.utils.data.TensorDataset(*held[client])
            return torch.utils.data.DataLoader(dataset, batch_size, shuffle=True)

    class Timed(StandalonePipeline):  # type: ignore[misc]
        def evaluate(self) -> None:
            ends.append(time.time())

    plain = torch.contiguous_format  # it flattens weights with view
    trainer = SGDSerialClientTrainer(work.network().to(memory_format=plain), len(held))
    trainer.setup_dataset(Data())
    trainer.setup_optim(1, work.batch, work.lr)
    server = SyncServerHandler(work.network().to(memory_format=plain), work.rounds, work.sampled / len(held))
    Timed(server, trainer).main()


VARIANTS: dict[str, Callable[[Work, list[float]], None]] = {
    "floor": floor, "floor_all": floor_all, "loop": loop, "flower": flower,
    "pfl": pfl, "pfl2": pfl, "pfl2_all": pfl_all, "fedlab": fedlab,
}  # fmt: skip


def main() -> None:
    """Run one variant and print its times."""
    name, path = sys.argv[1:]
    torch.set_num_threads(1)
    ends: list[float] = []
    VARIANTS[name](Work(json.loads(Path(path).read_text(encoding="utf-8"))), ends)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(ends))


if __name__ == "__main__":
    main()
