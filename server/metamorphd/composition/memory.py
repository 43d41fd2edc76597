"""The memory that large requests and the texts of prompts share."""

from metamorphd.allocator import Allocator
from metamorphd.in_flight import BytesInFlight
from metamorphd.settings.server import Settings

# The texts of prompts have this share of the memory for requests, besides.
TEXTS_SHARE = 0.5


def memory_for_requests(settings: Settings, allocator: Allocator) -> BytesInFlight:
    """Returns the configured budget."""
    return _budget(settings, allocator, share=1.0)


def memory_for_texts(settings: Settings, allocator: Allocator) -> BytesInFlight:
    """Returns the budget for the texts of prompts."""
    return _budget(settings, allocator, share=TEXTS_SHARE)


def memory_needed(settings: Settings) -> int:
    """Returns the bytes that both may take up together."""
    return int(settings.max_bytes_in_flight * (1 + TEXTS_SHARE))


def _budget(settings: Settings, allocator: Allocator, *, share: float) -> BytesInFlight:
    return BytesInFlight(
        total=int(settings.max_bytes_in_flight * share),
        per_vault=int(settings.max_vault_bytes_in_flight * share),
        freed=allocator.return_soon,
    )
