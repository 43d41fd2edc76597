"""Garbage collections of a process that measures."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen() -> Iterator[None]:
    """Exempts what this process has from garbage collections during the block, as a server does once it has started.

    Whatever it measures would wait for a full collection.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
