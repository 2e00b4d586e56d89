"""The ``flower`` engine: Flower's own simulation runtime, as users of ``flwr run`` know it.

``run_simulation`` warns that it will go; it is used nowhere else. Apps find their run directory in the environment,
because Flower leaves ``run_config`` empty on this path.
"""

import os

from flwr.serverapp import ServerApp

from clients.app import app as client_app
from fedinverse.flower_compat import run_simulation
from fedinverse.run import Run
from pipeline.engines.ray_processes import few_processes
from pipeline.engines.settings import Engine


def run_on_flower(run: Run, engine: Engine, server: ServerApp) -> None:
    """Run the federation on Flower's Ray backend."""
    # Flower's backend has no way to pass the token on to its actors' processes on every version: private host only.
    resources = {"num_cpus": engine.client_cpus, "num_gpus": engine.client_gpus}
    with few_processes():
        run_simulation(
            server_app=server,
            client_app=client_app,
            num_supernodes=run.population.clients,
            backend_config={
                "client_resources": resources,
                "init_args": {
                    "num_cpus": engine.actors or os.cpu_count() or 1,
                    "include_dashboard": False,
                    "address": "local",
                },
            },
        )
