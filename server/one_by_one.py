"""Work that is done in order, each piece at once or, by a thread of its own, beside whatever follows."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class OneByOne(Generic[T]):
    """Does one piece of work after another.

    With ``beside``, a piece is begun when it is handed over and the caller goes on; the next one waits for it. An error
    is raised when a later piece is handed over, or at the end, and none is done after it. The block ends when all that
    was handed over is done.

    Attributes:
        waits: whether a piece is begun only by ``begin``, and at the latest when the next one is handed over. That one
            waits for the piece before it.
    """

    def __init__(self, *, beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "one-by-one") if beside else None
        self._begun: deque[Future[T | None]] = deque()
        self._next: Callable[[], T] | None = None
        self._failed = False
        self.waits = False

    def __call__(self, work: Callable[[], T]) -> T | None:
        """Do ``work`` and return its result; beside the caller: begin it, or keep it, and return None."""
        if self._thread is None:
            return work()
        self.begin()
        self._finish(1 if self.waits else 0)
        self._next = work
        if not self.waits:
            self.begin()
        return None

    def begin(self) -> None:
        """Begin what was handed over, if it is not begun."""
        work, self._next = self._next, None
        if work is not None and self._thread is not None:
            self._begun.append(self._thread.submit(self._do, work))

    def _do(self, work: Callable[[], T]) -> T | None:
        if self._failed:  # whoever waits for the piece that failed is told
            return None
        try:
            return work()
        except BaseException:
            self._failed = True
            raise

    def _finish(self, left: int) -> None:
        """Wait until at most ``left`` pieces are not done."""
        while len(self._begun) > left:
            self._begun.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.begin()
        try:
            if kind is None:
                self._finish(0)
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)
