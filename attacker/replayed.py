"""A training step that a CUDA device replays as one graph.

A step of a small network is hundreds of kernels, each shorter than Python takes to launch it. Recorded once as a CUDA
graph, they are launched together: the same kernels in the same order on the numbers of the moment. Elsewhere a step is
simply called.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3  # steps before the recording: libraries set themselves up, optimisers make their state

Step = Callable[..., None]


def replayed(step: Step, device: torch.device) -> Step:
    """Return ``step``, to be called as before; on CUDA it is recorded at its fourth call and replayed from then on.

    Args:
        step: reads its arguments, tensors of ``device``, of the same shapes at every call; what else it reads must stay
            where it is in memory, and what it changes, it changes in place. PyTorch raises at the recording if it waits
            for the device.
    """
    return _Graph(step, device) if device.type == "cuda" else step


class _Graph:
    def __init__(self, step: Step, device: torch.device) -> None:
        self._step = step
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._taken = 0

    def __call__(self, *inputs: Tensor) -> None:
        """Take one step."""
        if self._graph is None and self._taken < _WARM_UP:
            self._taken += 1
            self._aside(inputs)
            return
        if self._graph is None:
            self._graph = self._recorded(inputs)
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()

    def _aside(self, inputs: tuple[Tensor, ...]) -> None:
        """Take one step on the stream of the recording, where autograd notes it."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._step(*inputs)
        here.wait_stream(self._stream)

    def _recorded(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._inputs = tuple(value.clone() for value in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._step(*self._inputs)
        return graph
