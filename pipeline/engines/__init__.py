"""Engines run the same ServerApp and ClientApp: ``local`` in process, ``ray`` on Ray actors, ``flower`` stock."""

from pipeline.engines.engine import run_federation, session_of
from pipeline.engines.settings import Engine, EngineName

__all__ = ["Engine", "EngineName", "run_federation", "session_of"]
