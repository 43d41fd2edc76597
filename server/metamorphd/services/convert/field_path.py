"""Field paths of violations (AIP-193)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from metamorphd.errors import RequestInvalid


@contextmanager
def within(field: str) -> Iterator[None]:
    """Prefixes the field paths of a RequestInvalid raised in the block with `field`, the nested message's own path."""
    try:
        yield
    except RequestInvalid as refusal:
        nested = [replace(violation, field=f"{field}.{violation.field}") for violation in refusal.violations]
        raise RequestInvalid(violations=nested) from None
