"""Positions in parallel, one thread to a kernel.

Batched LAPACK under OpenMP spends its time in barriers: slow and erratic on two threads, and far worse
when another process wants the cores. Independent tiles of positions on a thread pool need no barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


def for_each(work: Callable[[T], None], items: Iterable[T], *, parallel: bool = True) -> None:
    """Calls ``work`` on every item, ``torch.get_num_threads()`` at a time, each on one thread.

    With ``parallel`` False, or on one thread, in order on the caller's thread, which keeps its threads.
    An exception in one item is raised; items not yet begun are then left out.
    """
    threads = torch.get_num_threads()
    if not parallel or threads == 1:
        for item in items:
            work(item)
        return

    def one(item: T) -> None:
        with torch.no_grad():  # the mode is a thread's own
            work(item)

    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(one, items):
                pass
    finally:
        # The setting belongs to each thread, but new threads start from the value set last.
        torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside the block: its sums are then in one order, and small work waits for no other core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
