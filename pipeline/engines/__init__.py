"""Engines run the same ServerApp and ClientApp: ``local`` in process, ``ray`` on Ray actors, ``flower`` stock."""

from pipeline.engines.engine import Engine, EngineName, run_federation

__all__ = ["Engine", "EngineName", "run_federation"]
