"""Rules for values of JSON, and those that are made of others. A rule returns whether a value follows it."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Rule = Callable[[Any], bool]
Rules = Mapping[str, Rule]

LARGEST = 2**63 - 1


def text(most: int) -> Rule:
    """A text of at most so many characters."""
    return lambda value: isinstance(value, str) and len(value) <= most


def matching(pattern: re.Pattern[str]) -> Rule:
    """A text that a pattern describes as a whole."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def number(least: int = 0, most: int = LARGEST) -> Rule:
    """A whole number."""
    return lambda value: type(value) is int and least <= value <= most


def one_of(*values: str) -> Rule:
    """One of some texts."""
    return lambda value: isinstance(value, str) and value in values


def optional(rule: Rule) -> Rule:
    """None, or a value that follows a rule."""
    return lambda value: value is None or rule(value)


def flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def pairs(key: Rule, content: Rule, most: int) -> Rule:
    """An object of at most so many texts."""
    return lambda value: (
        isinstance(value, dict) and len(value) <= most and all(key(k) and content(v) for k, v in value.items())
    )


def shaped(rules: Rules, *, needed: frozenset[str] = frozenset()) -> Rule:
    """An object with some of these fields, no others, and with those that are needed."""
    return lambda value: (
        isinstance(value, dict)
        and needed <= value.keys() <= rules.keys()
        and all(rules[name](field) for name, field in value.items())
    )


def listed(rule: Rule, most: int) -> Rule:
    """An array of at most so many values."""
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(rule, value))


def within(most: int, rule: Rule) -> Rule:
    """A value whose texts have at most so many bytes together, without the names of fields and types."""
    return lambda value: rule(value) and sum(len(each.encode()) for each in _texts(value)) <= most


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _texts(each)
        case dict():
            for name, each in value.items():
                if name != "type":
                    yield from _texts(each)
