"""Threads that work when nobody else has to."""

import os
import threading

LOWEST_PRIORITY = 19


def lower_priority() -> None:
    """Gives the calling thread the lowest priority: the processor is for others first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
