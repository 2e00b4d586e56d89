"""The stages of a run: federate, invert, audit, report."""
