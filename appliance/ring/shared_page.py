"""A small memfd that two processes map: created once, grown never, passed by fd."""

from __future__ import annotations

import fcntl
import mmap
import os


def create(name: str, size_bytes: int) -> int:
    """A sealed memfd of `size_bytes` zero bytes; returns its fd (close-on-exec)."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def map_whole(fd: int, *, writable: bool) -> memoryview:
    """Map all of it; the view keeps the mapping alive."""
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return memoryview(mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=prot))
