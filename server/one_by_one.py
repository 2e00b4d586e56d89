"""Work that is done in order, each piece at once or, by a thread of its own, beside whatever follows."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class OneByOne(Generic[T]):
    """Does one piece of work after another.

    With ``beside``, a piece is begun when it is handed over and the caller goes on; the next one waits for it. An error
    is raised when the next one is handed over, or at the end. The block ends when all is done.
    """

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "rounds") if beside else None
        self._last: Future[T] | None = None

    def __call__(self, work: Callable[[], T]) -> T | None:
        """Do ``work`` and return its result; beside the caller: begin it and return None."""
        if self._thread is None:
            return work()
        self._finish()
        self._last = self._thread.submit(work)
        return None

    def _finish(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)
