"""Synthfaces: procedural people, each photographed 30 times. The face path at full scale without a real face.

A person is a fixed vector of traits (``portrait.TRAITS``); a photograph adds pose, expression, light, clothes
and background (``portrait.CIRCUMSTANCES``) and sensor grain. Every person has ``VIEWS`` images in a row, as
many as the 1,000 identities of CelebA have on average, so ``limit`` sets the number of people: 30,000 images
(the default) are 1,000 people, 3,000 are 100. Person k looks the same under every limit and size; another
seed is another population.

``synthfaces`` are the private people, ``synthfaces_public`` others, who never share a trait vector with them.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedinverse.data.portrait import CIRCUMSTANCES, TRAITS, Numbers, draw
from fedinverse.data.source import Images, Request, register
from fedinverse.errors import ConfigError
from fedinverse.seeds import generator, numpy_generator

VIEWS = 30
DEFAULT_COUNT = 30_000
SMALLEST = 32
GRAIN = 0.012  # standard deviation of the sensor's noise
_CHUNK = 16  # at 64x64 the planes of 16 images stay in a core's cache: fastest of 8, 16, 32, 64, 128


@register("synthfaces", 3, "always there: drawn by fedinverse.data.portrait")
def load(request: Request) -> Images:
    """Draw ``limit`` faces (default 30,000) of the private people, 30 of each."""
    return _population(request, "synthface")


@register("synthfaces_public", 3, "always there: drawn by fedinverse.data.portrait; other people than synthfaces")
def load_public(request: Request) -> Images:
    """Draw ``limit`` faces (default 30,000) of people who are not among ``synthfaces``."""
    return _population(request, "synthface public")


def _population(request: Request, population: str) -> Images:
    channels, height, width = request.shape
    if channels != 3 or height != width or height < SMALLEST:
        raise ConfigError(
            f"source '{request.source}' draws square RGB images of at least {SMALLEST} pixels, "
            f"not {channels}x{height}x{width}; choose a model for 3x64x64"
        )
    count = request.limit or DEFAULT_COUNT
    images = photograph(np.arange(count), population, request.seed, height=height, width=width, pixel=2 / width)
    labels = np.arange(count) // VIEWS
    names = tuple(f"{population} {request.seed}-{person:05d}" for person in range(int(labels[-1]) + 1))
    return Images(images, labels, names, "Apache-2.0; no real person", "drawn by fedinverse.data.synthfaces")


def photograph(
    rows: NDArray[np.int64], population: str, seed: int, *, height: int, width: int, pixel: float
) -> NDArray[np.uint8]:
    """Draw the images ``rows`` of a population; row r shows person r // 30; return uint8 [N, 3, height, width].

    Args:
        rows: int64 [N].
        population: name of the stream that people and circumstances are drawn from.
        seed: of the population.
        height: in pixels.
        width: in pixels.
        pixel: side of a pixel; 2 / side fills a square with the face.
    """
    count = int(rows.max()) + 1
    people = _numbers(TRAITS, seed, population, "people", -(-count // VIEWS))
    moments = _numbers(CIRCUMSTANCES, seed, population, "moments", count)
    images = np.empty((len(rows), 3, height, width), np.uint8)
    with torch.inference_mode():
        for start in range(0, len(rows), _CHUNK):
            some = torch.from_numpy(rows[start : start + _CHUNK])
            person = {name: values[some // VIEWS] for name, values in people.items()}
            moment = {name: values[some] for name, values in moments.items()}
            faces = draw(person, moment, height, width, pixel)
            random = generator(seed, population, "grain", start)
            grain = torch.randn(_CHUNK, 3, height, width, generator=random)[: len(some)]
            faces = faces.add_(grain, alpha=GRAIN).clamp_(0, 1).mul_(255).round_()
            images[start : start + _CHUNK] = faces.to(torch.uint8).numpy()
    return images


def _numbers(ranges: Mapping[str, tuple[float, float]], seed: int, population: str, what: str, count: int) -> Numbers:
    """Draw ``count`` rows of uniform numbers; the first rows do not depend on ``count``."""
    drawn = numpy_generator(seed, population, what).random((count, len(ranges)), np.float32)
    return {
        name: torch.from_numpy(low + (high - low) * drawn[:, column])
        for column, (name, (low, high)) in enumerate(ranges.items())
    }
