"""The workshops."""

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from tiles.data import Tiles
from tiles.model import make_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train with AdamW; with FedProx, the server's proximal weight pulls towards its model."""
    model = make_model()
    model.load_state_dict(msg.content["model"].to_torch_state_dict())
    start = [weight.detach().clone() for weight in model.parameters()]
    mu = float(msg.content["settings"].get("proximal-mu", 0.0))
    tiles = Tiles(context.node_config["partition-id"], context.node_config["num-partitions"])
    images = torch.stack([torch.from_numpy(np.array(row["image"], np.float32) / 255)[None] for row in tiles])
    labels = torch.tensor([row["label"] for row in tiles])
    optimizer = torch.optim.AdamW(model.parameters(), lr=context.run_config["train.lr"])
    model.train()
    for _ in range(context.run_config["train.epochs"]):
        for rows in torch.randperm(len(labels)).split(16):
            loss = model(pixel_values=images[rows], labels=labels[rows])["loss"]
            loss = loss + mu / 2 * sum((w - s).square().sum() for w, s in zip(model.parameters(), start, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(labels)})
    return Message(RecordDict({"model": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=msg)
