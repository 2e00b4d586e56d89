import torch
import torch.nn.functional as F
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from digits.model import CNN, get_parameters, office, set_parameters


class OfficeClient(NumPyClient):
    def __init__(self, images, labels, lr):
        self.net, self.lr = CNN(10), lr
        # This office's scanner: mean .13, deviation .31
        self.images = (torch.tensor(images)[:, None] - 0.13) / 0.31
        self.labels = torch.tensor(labels)

    def get_parameters(self, config):
        return get_parameters(self.net)

    def fit(self, parameters, config):
        set_parameters(self.net, parameters)
        self.net.train()
        optimizer = torch.optim.SGD(self.net.parameters(), lr=self.lr)
        for _ in range(2):
            for rows in torch.randperm(len(self.labels)).split(32):
                optimizer.zero_grad()
                F.cross_entropy(self.net(self.images[rows]), self.labels[rows]).backward()
                optimizer.step()
        return get_parameters(self.net), len(self.labels), {}

    def evaluate(self, parameters, config):
        set_parameters(self.net, parameters)
        self.net.eval()
        with torch.no_grad():
            logits = self.net(self.images)
        accuracy = (logits.argmax(1) == self.labels).float().mean().item()
        return F.cross_entropy(logits, self.labels).item(), len(self.labels), {"accuracy": accuracy}


def client_fn(context):
    number, offices = context.node_config["partition-id"], context.node_config["num-partitions"]
    return OfficeClient(*office(number, offices), lr=context.run_config["lr"]).to_client()


app = ClientApp(client_fn=client_fn)
