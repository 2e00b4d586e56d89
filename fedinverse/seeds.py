"""Independent random streams from one run seed.

Every random decision of a run draws from ``generator(seed, *labels)``; the labels say what it is for, so that
adding a consumer never shifts the numbers another one sees. What draws from torch's global generators and takes none
of its own (dropout, the first weights of a layer) runs under ``seeded``.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed for the stream named by ``labels`` under ``seed`` (SHA-256 of both)."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator for the stream named by ``labels``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *labels))


# One thread at a time draws from the global generators of torch and NumPy: worlds of a run are federated side by side.
_GLOBAL = threading.RLock()


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed torch's global generators with ``seed`` for the time of a block and give them back as they were.

    Args:
        seed: as ``derive`` returns it.
        device: where the block computes; its generators are seeded too.
    """
    kind = torch.device(device).type
    with _GLOBAL:
        if kind == "cpu":
            # Not ``torch.manual_seed``: where no accelerator is in use, it keeps a traceback for each that might be.
            before = torch.default_generator.get_state()
            torch.default_generator.manual_seed(seed)
            try:
                yield
            finally:
                torch.default_generator.set_state(before)
            return
        # All devices of that kind: ``manual_seed`` seeds them all, and those the block does not use are given back too.
        with torch.random.fork_rng(range(torch.get_device_module(kind).device_count()), device_type=kind):
            torch.manual_seed(seed)
            yield


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seed NumPy's global state, which Flower draws from, with ``seed`` for the time of a block and give it back."""
    with _GLOBAL:
        before = np.random.get_state()
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


def numpy_generator(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a numpy generator for the stream named by ``labels``."""
    return np.random.default_rng(derive(seed, *labels))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute on ``count`` CPU threads for the time of a block.

    Another number adds in another order: where a result must not depend on the machine, the number is fixed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
