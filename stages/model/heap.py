"""How the process gives freed memory back to the system."""

from __future__ import annotations

M_MMAP_THRESHOLD = -3  # malloc.h of glibc


def return_freed_blocks() -> None:
    """Makes glibc give freed blocks of a mebibyte and more back at once; other allocators do so anyway.

    It raises that bound by itself to 32 MiB, and then keeps such blocks in the heaps of all threads: a
    tenth of the memory that the reference of a model of 60 million parameters needs.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 20)


def trim_heaps() -> None:
    """Makes glibc give back all that is free in the heaps of all threads; other allocators do so anyway.

    Between pieces of work whose blocks are used again within each: those of :func:`return_freed_blocks` cost
    a page fault for every 4 KiB of every use, which is a third of the time of a walk over a small network.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
