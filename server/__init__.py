"""The server: global model, rounds, central utility evaluation, broadcast ledger, checkpoints and resume."""
