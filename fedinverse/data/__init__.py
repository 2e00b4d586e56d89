"""Image sources by name, decoded once into a memory-mapped cache: ``open_source("mnist", ...) -> Pool``."""

from fedinverse.data import (  # noqa: F401 - registers them
    arrays,
    celeba,
    cifar10,
    clientfolders,
    emnist,
    facescrub,
    fashion,
    ffhq,
    glyphs,
    imagefolder,
    lfw,
    mnist,
    synthfaces,
)
from fedinverse.data.source import Images, Pool, Request, located, open_source, source_names, source_of

__all__ = ["Images", "Pool", "Request", "located", "open_source", "source_names", "source_of"]
