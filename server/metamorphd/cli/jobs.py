"""A shell's jobs: which of them has the terminal, and Ctrl-Z."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def has_terminal() -> bool:
    """Returns whether standard output may be drawn on: that of a job in the background is somebody else's."""
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        # It controls no jobs.
        return True


@contextmanager
def stoppable(*, leave: Callable[[], None], resume: Callable[[], None]) -> Iterator[None]:
    """Has Ctrl-Z in a block call `leave` before the process is stopped, and `resume` once it goes on."""
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN:
        yield
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        leave()
        # By which its default is back.
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, stop)
        resume()

    loop.add_signal_handler(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)
