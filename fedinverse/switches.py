"""PyTorch's process-wide arithmetic switches, set for the time of a block and given back as they were.

| switch | on CUDA | its price |
|---|---|---|
| TF32 | matrix products and convolutions round their inputs to 10 bits of mantissa | about three digits |
| deterministic | the same kernels and the same order of sums every time | slower; some have none, and are refused |

PyTorch has an older and a newer way to say TF32, and reading the older one raises where the newer ones disagree
(cuDNN's convolutions without its recurrent layers, say). So all of them are set together and given back one by one.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def _switches() -> list[Any]:
    backends: Any = torch.backends
    return [backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]


@contextmanager
def tf32(device: str | torch.device, *, on: bool) -> Iterator[None]:
    """Compute with TF32 or without it for the time of a block; a CPU has no such switch and is left alone."""
    if torch.device(device).type == "cpu":
        yield
        return
    backends: Any = torch.backends
    before = [switch.fp32_precision for switch in _switches()]
    try:
        older = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    except RuntimeError:  # the caller set the newer ones apart: only they are given back
        older = None
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        if older is not None:
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = older
        for switch, precision in zip(_switches(), before, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision


def exact_fp32(device: str | torch.device) -> AbstractContextManager[None]:
    """Compute in fp32 as its name says for the time of a block: without TF32."""
    return tf32(device, on=False)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """If ``wanted``, let the block use deterministic kernels only; PyTorch raises where there is none."""
    if not wanted:
        yield
        return
    workspace = os.environ.get(_WORKSPACE)
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # PyTorch asks for it before every product of cuBLAS
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
