"""The caller of the call that is being served."""

from contextvars import ContextVar

from metamorphd.models.caller import Caller

current_caller: ContextVar[Caller] = ContextVar("current_caller")
