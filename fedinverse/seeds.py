"""Independent random streams from one run seed.

Every random decision of a run draws from ``generator(seed, *labels)``; the labels say what it is for, so that
adding a consumer never shifts the numbers another one sees.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``labels`` under ``seed`` (SHA-256 of both)."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator for the stream named by ``labels``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *labels))


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a numpy generator for the stream named by ``labels``."""
    return np.random.default_rng(derive(seed, *labels))
