"""Ids from the clock."""

import time
import uuid

from metamorphd.clock import Clock


def test_an_id_is_a_prefix_and_a_version_7_uuid() -> None:
    prefix, _, digits = Clock().new_id("ses").partition("_")
    made = uuid.UUID(digits)
    assert (prefix, made.version, made.variant) == ("ses", 7, uuid.RFC_4122)
    assert abs((made.int >> 80) - time.time_ns() // 1_000_000) < 1000


def test_ids_sort_by_age_and_are_unique() -> None:
    clock = Clock()
    early = [clock.new_id("x") for _ in range(5000)]
    time.sleep(0.002)
    late = [clock.new_id("x") for _ in range(5000)]
    assert max(early) < min(late)
    assert len({*early, *late}) == 10_000
    keys = [clock.new_key() for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert {len(key) for key in keys} == {32}
