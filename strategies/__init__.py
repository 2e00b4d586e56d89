"""Server strategies: any Flower strategy, with the ledger and the participation policy of an audited federation."""

from strategies.audited import Audited
from strategies.choice import Strategy, make_strategy, strategy_names
from strategies.ledger import Ledger
from strategies.participation import Participation, Selection

__all__ = ["Audited", "Ledger", "Participation", "Selection", "Strategy", "make_strategy", "strategy_names"]
