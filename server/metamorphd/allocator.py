"""Returns freed memory to the system."""

import asyncio
import ctypes
import sys

# Long enough that what was freed at about the same time is returned at once.
SETTLE_SECONDS = 0.25


class Allocator:
    """The C library's allocator. Of many small blocks glibc keeps the pages that are free between others in use.

    gRPC receives a request in such blocks. malloc_trim(3) returns those pages too.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL(None) if sys.platform == "linux" else None
        # Not in musl, for example.
        self._trim = getattr(library, "malloc_trim", None)
        self._trimming = False

    def return_soon(self) -> None:
        """Returns memory after a moment, on a thread. Calls until then have no further effect."""
        if self._trim is not None and not self._trimming:
            self._trimming = True
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._return)

    def _return(self) -> None:
        self._trimming = False
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
