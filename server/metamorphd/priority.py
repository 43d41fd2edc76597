"""Threads and processes that work when nobody else has to."""

import contextlib
import os
import threading

LOWEST_PRIORITY = 19


def lower_priority() -> None:
    """Gives the calling thread the lowest priority: the processor is for others first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)


def lower_priority_of(group: int) -> None:
    """Gives every thread of a process group the lowest priority, and those that they start later."""
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PGRP, group, LOWEST_PRIORITY)
