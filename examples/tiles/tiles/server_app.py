"""The guild."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedProx

from tiles.model import make_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the strategy that the configuration names. Nothing is evaluated at the workshops."""
    keys = {"arrayrecord_key": "model", "configrecord_key": "settings", "fraction_evaluate": 0.0}
    if context.run_config["strategy"] == "fedadam":
        strategy = FedAdam(eta=0.01, **keys)
    else:
        strategy = FedProx(proximal_mu=0.1, **keys)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(make_model().state_dict()),
        train_config=ConfigRecord({}),
        num_rounds=context.run_config["rounds"],
    )
