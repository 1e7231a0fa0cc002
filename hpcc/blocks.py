"""Compress the blocks of a SquashFS image: on how many threads, in which order."""

from __future__ import annotations

import os
from collections import deque

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor


STORED = 1 << 24  # in a size word: this block is not compressed (squashfs/inode.py)


def thread_count() -> int:
    """CPUs that this process may use: its affinity, bounded by the quota of its cgroup (v2: cpu.max, v1: cpu.cfs_*)."""
    count = len(os.sched_getaffinity(0))
    for quota, period in _cpu_quotas():
        if quota > 0 and period > 0:
            count = min(count, -(-quota // period))
    return max(1, count)


def _cpu_quotas() -> list[tuple[int, int]]:
    found = []
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found.append(_quota([f"/sys/fs/cgroup{path}/cpu.max"]))
        elif "cpu" in controllers.split(","):
            base = f"/sys/fs/cgroup/cpu{path}"
            found.append(_quota([f"{base}/cpu.cfs_quota_us", f"{base}/cpu.cfs_period_us"]))
    return found


def _quota(files: list[str]) -> tuple[int, int]:
    words = [word for name in files for line in _lines(name) for word in line.split()]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
        return int(words[0]), int(words[1])
    return 0, 0  # "max", -1, or no such file


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def read_ahead(pieces: Iterator[bytes], depth: int = 3) -> Generator[bytes, None, None]:
    """The same pieces, made in another thread while the last ones are used; at most `depth` wait.

    For sources that release the GIL: decompressing and hashing. What they raise is raised here.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, pieces, None) for _ in range(depth))
        while (piece := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, pieces, None))
            yield piece


class BlockQueue:
    """Compress blocks on the pool's threads and hand them on in the order in which they came.

    `put(data, done)` calls `done(word, compressed)` later, from `put`, `then` or `flush`, always in order and always
    in the thread that called them; `then(done)` puts a step without data in the same order. At most `depth` blocks
    and steps wait, so memory is bounded. Not to be shared between threads; the pool may be.
    """

    def __init__(self, compress: Callable[[bytes], bytes], pool: ThreadPoolExecutor, depth: int) -> None:
        self._compress, self._pool, self._depth = compress, pool, depth
        self._waiting: deque[tuple[Future[tuple[int, bytes]] | None, Callable[[int, bytes], None]]] = deque()

    def put(self, data: bytes, done: Callable[[int, bytes], None]) -> None:
        self._waiting.append((self._pool.submit(pack_block, self._compress, data), done))
        self._settle()

    def then(self, done: Callable[[], None]) -> None:
        self._waiting.append((None, lambda _word, _data: done()))
        self._settle()

    def _settle(self) -> None:
        while len(self._waiting) > self._depth or (self._waiting and self._is_ready(self._waiting[0][0])):
            self._finish_first()

    def flush(self) -> None:
        while self._waiting:
            self._finish_first()

    @staticmethod
    def _is_ready(future: Future[tuple[int, bytes]] | None) -> bool:
        return future is None or future.done()

    def _finish_first(self) -> None:
        future, done = self._waiting.popleft()
        if future is None:
            done(0, b"")
        else:
            done(*future.result())


def pack_block(compress: Callable[[bytes], bytes], data: bytes) -> tuple[int, bytes]:
    """(size word, bytes on disk) of one block: stored where compression does not help."""
    packed = compress(data)
    if len(packed) < len(data):
        return len(packed), packed
    return len(data) | STORED, data
