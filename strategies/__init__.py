"""Server strategies: any Flower strategy, with the ledger and the participation policy of an audited federation."""

from strategies.audited import Audited
from strategies.choice import Rule, Strategy, make_strategy, strategy_names
from strategies.grids import AnsweredGrid
from strategies.ledger import Ledger
from strategies.participation import Participation, Selection
from strategies.secure_aggregation import SecureGrid
from strategies.settings import Aggregation
from strategies.state import load_state_dict, state_dict

__all__ = [
    "Aggregation",
    "AnsweredGrid",
    "Audited",
    "Ledger",
    "Participation",
    "Rule",
    "SecureGrid",
    "Selection",
    "Strategy",
    "load_state_dict",
    "make_strategy",
    "state_dict",
    "strategy_names",
]
