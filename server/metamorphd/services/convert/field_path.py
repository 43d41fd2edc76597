"""Field paths of refusals (AIP-193)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from metamorphd.errors import RequestInvalid


@contextmanager
def within(field: str) -> Iterator[None]:
    """Puts `field` before the paths of a RequestInvalid that is raised inside: they begin at a nested message."""
    try:
        yield
    except RequestInvalid as refusal:
        nested = [replace(violation, field=f"{field}.{violation.field}") for violation in refusal.violations]
        raise RequestInvalid(violations=nested) from None
