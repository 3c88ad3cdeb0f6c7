"""The counters page: a worker's words and its streams' words."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from appliance.ring.counters import MAX_STREAMS, STREAM_WORDS, WORKER_WORDS, Count, CountersPage, StreamCount


@pytest.fixture
def fd() -> Iterator[int]:
    """A page's memfd."""
    found = CountersPage.create("test")
    yield found
    os.close(found)


def test_the_supervisor_reads_with_no_message(fd: int) -> None:
    """What one mapping counts, another sees; it starts at zero."""
    mine, seen = CountersPage(fd, writable=True), CountersPage(fd, writable=False)
    assert not any(seen.worker) and not any(seen.stream(MAX_STREAMS - 1))
    mine.worker[Count.BYTES_SENT] += 2**40
    mine.stream(5)[StreamCount.LISTENERS] += 3
    assert seen.worker[Count.BYTES_SENT] == 2**40
    assert seen.stream(5)[StreamCount.LISTENERS] == 3


def test_no_word_is_shared(fd: int) -> None:
    """Each word of the worker and of each stream is a word of its own, and all lie in the page."""
    page = CountersPage(fd, writable=True)
    for index in range(WORKER_WORDS):
        page.worker[index] += 1
    for stream in range(MAX_STREAMS):
        words = page.stream(stream)
        for index in range(STREAM_WORDS):
            words[index] += 1
    raw = os.pread(fd, 1 << 20, 0)
    assert raw == (1).to_bytes(8, "little") * (WORKER_WORDS + MAX_STREAMS * STREAM_WORDS)


def test_a_reader_cannot_write(fd: int) -> None:
    """One writer for each fact: the supervisor's view is read-only."""
    seen = CountersPage(fd, writable=False)
    with pytest.raises(TypeError):
        seen.worker[Count.LISTENERS] = 1
    with pytest.raises(TypeError):
        seen.stream(0)[StreamCount.LISTENERS] = 1


def test_the_page_keeps_its_size(fd: int) -> None:
    """Sealed: nobody can shrink it under a reader, nor grow it."""
    size = os.fstat(fd).st_size
    for other in (0, size - 4096, size + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, other)


def test_a_dead_workers_page_counts_nobody(fd: int) -> None:
    """What is counted "now" becomes zero, for the streams in use; totals stay."""
    page = CountersPage(fd, writable=True)
    for index in range(5):
        page.worker[index] = 7
        for stream in range(3):
            page.stream(stream)[index] = 7
    page.clear_present(3)
    assert (page.worker[Count.LISTENERS], page.worker[Count.CONNECTIONS], page.worker[Count.BYTES_SENT]) == (0, 0, 7)
    for stream in range(3):
        words = page.stream(stream)
        assert (words[StreamCount.LISTENERS], words[StreamCount.REWOUND]) == (0, 0)
        assert (words[StreamCount.STARTED], words[StreamCount.BYTES_SENT], words[StreamCount.DROPPED_SLOW]) == (7, 7, 7)
