"""Training steps that CUDA replays: which calls are taken, recorded and replayed, on a CUDA that is only played."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from attacker.replayed import replayed


class Stream:
    """A stream on which everything is done at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: "Stream") -> None: ...


class Played:
    """CUDA's part: what is called while a graph is recorded is not done, but done again at every replay."""

    recording: "list[Any] | None" = None

    def __init__(self) -> None:
        self.recorded: list[Any] = []

    def replay(self) -> None:
        for work in self.recorded:
            work()

    @classmethod
    @contextmanager
    def of(cls, graph: "Played", stream: Stream) -> Iterator[None]:
        cls.recording = graph.recorded
        yield
        cls.recording = None

    @classmethod
    def kernel(cls, work: Any) -> None:
        if cls.recording is None:
            work()
        else:
            cls.recording.append(work)


@pytest.fixture(autouse=True)
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield

    for name, stand_in in (("Stream", Stream), ("CUDAGraph", Played), ("graph", Played.of), ("stream", on)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)


def test_every_call_is_one_step_on_the_numbers_of_the_moment() -> None:
    total, python = torch.zeros(2), []

    def step(values: Tensor, factor: Tensor) -> None:
        python.append(1)
        Played.kernel(lambda: total.add_(factor * values))

    fast = replayed(step, torch.device("cuda"))
    expected = torch.zeros(2)
    for number in range(1, 9):
        values, factor = torch.tensor([1.0, number]), torch.tensor(2.0)
        fast(values, factor)
        expected += factor * values
        assert torch.equal(total, expected)
    assert len(python) == 4  # three to warm up, one to record


def test_elsewhere_a_step_is_itself() -> None:
    def step() -> None: ...

    assert replayed(step, torch.device("cpu")) is step
