from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp

from digits.model import CNN, get_parameters


def server_fn(context):
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=0.5,
        min_available_clients=2,
        initial_parameters=ndarrays_to_parameters(get_parameters(CNN(10))),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=context.run_config["rounds"]))


app = ServerApp(server_fn=server_fn)
