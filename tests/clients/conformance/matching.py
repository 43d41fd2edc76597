"""What a case expects of an answer, and the values that its steps name."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAMED = re.compile(r"\$\{?([a-z_]+(?:\.[A-Za-z0-9_]+)*)\}?")


def _length(expected: Any, actual: Any) -> bool:
    return not list(differences(expected, len(actual)))


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$gte": lambda expected, actual: actual is not None and actual >= expected,
    "$lte": lambda expected, actual: actual is not None and actual <= expected,
    "$matches": lambda expected, actual: re.search(expected, actual) is not None,
    "$length": _length,
    "$first": lambda expected, actual: not list(differences(expected, actual[0])),
    "$last": lambda expected, actual: not list(differences(expected, actual[-1])),
}


def differences(expected: Any, actual: Any, where: str = "it") -> list[str]:
    """Returns how an answer differs from what is expected of it: nothing if it has all of it.

    An object may have more fields than are expected. `{"$gte": 2}` and its like compare otherwise, see OPERATORS.
    """
    if isinstance(expected, Mapping):
        operators = [name for name in expected if name in OPERATORS]
        found = [
            f"{where} is {actual!r}, not {name} {expected[name]!r}"
            for name in operators
            if not OPERATORS[name](expected[name], actual)
        ]
        for name in expected.keys() - set(operators):
            if not isinstance(actual, Mapping) or name not in actual:
                found.append(f"{where} has no {name}: {actual!r}")
            else:
                found += differences(expected[name], actual[name], f"{where}.{name}")
        return found
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(expected) != len(actual):
            return [f"{where} is {actual!r}, not {expected!r}"]
        return [
            fault
            for number, pair in enumerate(zip(expected, actual, strict=True))
            for fault in differences(*pair, f"{where}.{number}")
        ]
    return [] if expected == actual and type(expected) is type(actual) else [f"{where} is {actual!r}, not {expected!r}"]


def resolved(value: Any, named: Callable[[str], Any]) -> Any:
    """Returns a value in which `$name` and `${name.field.0}` are replaced, in text as text."""
    if isinstance(value, str):
        if whole := _NAMED.fullmatch(value):
            return _found(whole[1], named)
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(_found(match[1], named)), value)
    if isinstance(value, Mapping):
        return {key: resolved(each, named) for key, each in value.items()}
    return [resolved(each, named) for each in value] if isinstance(value, list) else value


def _found(path: str, named: Callable[[str], Any]) -> Any:
    name, *fields = path.split(".")
    value = named(name)
    for field in fields:
        value = value[int(field)] if isinstance(value, Sequence) else value[field]
    return value
