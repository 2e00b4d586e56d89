"""Work that is done beside whatever follows, in order."""

import threading
from functools import partial

import pytest

from server.one_by_one import OneByOne


def test_a_piece_that_waits_is_begun_when_it_is_told_or_when_the_next_one_comes() -> None:
    done: list[int] = []
    with OneByOne[None](beside=True) as hand_on:
        hand_on.waits = True
        may_end = threading.Event()
        hand_on(lambda: (may_end.wait(), done.append(0))[1])
        hand_on(lambda: done.append(1))  # begins the first, and does not wait for it
        assert not done
        hand_on.begin()
        hand_on.begin()
        assert not done  # in order
        may_end.set()
        hand_on(lambda: done.append(2))  # two at most are outstanding
        assert done[:1] == [0]
    assert done == [0, 1, 2]


@pytest.mark.parametrize("waits", [False, True])
def test_nothing_is_done_after_a_piece_that_failed(waits: bool) -> None:
    done: list[int] = []

    def full() -> None:
        raise OSError("no room")

    def pieces() -> None:
        with OneByOne[None](beside=True) as hand_on:
            hand_on.waits = waits
            for number in range(3):
                hand_on(full if number == 1 else partial(done.append, number))

    with pytest.raises(OSError, match="no room"):
        pieces()
    assert done == [0]


def test_what_was_handed_over_is_done_when_the_block_ends_with_an_error() -> None:
    done: list[int] = []

    def stopped() -> None:
        with OneByOne[None](beside=True) as hand_on:
            hand_on.waits = True
            hand_on(partial(done.append, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert done == [0]


def test_without_a_thread_a_piece_is_done_at_once() -> None:
    with OneByOne[int](beside=False) as hand_on:
        assert hand_on(lambda: 7) == 7
