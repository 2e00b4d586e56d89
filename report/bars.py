"""Progress of an attacker's work, on this terminal instead of a worker's pipe."""

from rich.progress import Progress, TaskID


class Bars:
    """An ``attacker.attacks.attack.Progress`` that keeps one bar per kind of work."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar of ``what``, which appears when it is first heard of."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
