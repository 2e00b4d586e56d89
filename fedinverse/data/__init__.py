"""Image sources by name, decoded once into a memory-mapped cache: ``open_source("mnist", ...) -> Pool``."""

from fedinverse.data import fashion, glyphs, mnist  # noqa: F401 - registers them
from fedinverse.data.source import Images, Pool, Request, open_source, source_names, source_of

__all__ = ["Images", "Pool", "Request", "open_source", "source_names", "source_of"]
