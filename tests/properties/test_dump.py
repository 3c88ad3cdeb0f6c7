"""Any ring, dumped and loaded into any other while live audio goes on: what is held is what was appended, under the same numbers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.ring import dump as dump_module
from appliance.ring import writer as writer_module
from appliance.ring.dump import write_dump
from appliance.ring.layout import Geometry, Word
from appliance.ring.restore import DumpFile, Restoration
from tests.properties.test_ring import STRICT, Pair, Step, layouts, steps
from tests.ring.plain_ring import check_chunks


def check_rows(pair: Pair, meta_slots: int) -> None:
    """The titles of held chunks are their own, unless their rows were taken; so are the epochs, always."""
    newest = len(pair.plain.titles)
    for entry in pair.plain.entries[pair.reader.tail_seq - 1 :]:
        expected = pair.plain.titles.get(entry.meta_id)
        found = pair.reader.title(entry.meta_id)
        assert found == expected or (found is None and entry.meta_id <= newest - meta_slots)
        row = pair.reader.epoch(entry.epoch)
        assert (row.bitrate_bps if row else 0) == entry.epoch


@settings(STRICT, max_examples=60)
@given(
    layouts,
    layouts,
    st.sampled_from([5, 60, 3600]),
    st.sampled_from([5, 60, 3600]),
    st.lists(steps, min_size=5, max_size=20),
    st.integers(1, 200),
    st.integers(0, 4),
    st.sampled_from([1, 900, 5000, 1 << 20]),
)
def test_a_restored_ring_agrees_with_a_list(
    before: Geometry, after: Geometry, window_s: int, next_s: int, some: list[Step], count: int, live: int, block_bytes: int
) -> None:
    """`live` chunks are appended between any two blocks; the ring it is loaded into has other sizes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(dump_module, "BLOCK_AUDIO_BYTES", block_bytes),
        mock.patch.object(writer_module, "PUNCH_BYTES", 4096),
    ):
        path = Path(folder) / "a"
        pair = Pair(before, window_s, 0)
        for number in range(count):
            pair.do(some[number % len(some)])
        old, oldest = pair.reader, pair.reader.oldest(pair.plain.head)
        written = write_dump(old, path, "a", "mp3", 1)
        if written is None:  # the newest chunk alone is longer than the window
            assert oldest == pair.plain.head
            return
        assert (written.first_seq, written.head_seq) == (oldest, pair.plain.head)
        other = Pair(after, next_s, 0)
        other.plain, other.next_us = pair.plain, pair.next_us
        end = pair.plain.head
        with DumpFile(path, "a", "mp3") as dump:
            restoration = Restoration(other.writer, dump.position, 1)
            for block in dump.blocks():
                restoration.store(block)
                for number in range(live):
                    other.do(replace(some[number % len(some)], new_writer=False))
                check_chunks(other.plain, other.reader)
                assert other.reader.tail_seq >= end
            found = restoration.publish()
        assert other.reader.words[Word.TAIL_SEQ] >= found.first_seq >= oldest
        slots = min(before.meta_slots, after.meta_slots)
        check_chunks(other.plain, other.reader)
        check_rows(other, slots)
        for number in range(40):
            other.do(some[number % len(some)])
            if number % 5 == 0:
                check_chunks(other.plain, other.reader)
                other.check_span(number / 40)
        check_rows(other, slots)
