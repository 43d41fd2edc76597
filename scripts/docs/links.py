"""Anchors, and links between the generated pages."""

import functools
import re
from collections.abc import Mapping

from scripts.docs.protos import files


def anchor(full_name: str) -> str:
    """The anchor of a service, method, message or enum on docs/api.md, which stays while the name does."""
    return full_name.lower().replace(".", "-")


def anchored(full_name: str, heading: str) -> str:
    """A heading with an anchor that names are not abbreviated in, so that it cannot clash with another one."""
    return f'<a id="{anchor(full_name)}"></a>\n\n{heading}\n'


@functools.cache
def methods() -> Mapping[str, str]:
    """The full name of each method by its short one, which is unique in the contract."""
    return {
        method.name: f"{file.package}.{service.name}.{method.name}"
        for file, _ in files()
        for service in file.service
        for method in service.method
    }


@functools.cache
def reasons() -> frozenset[str]:
    """Every ErrorReason, without its prefix."""
    return frozenset(
        value.name.removeprefix("ERROR_REASON_")
        for file, _ in files()
        for enum in file.enum_type
        if enum.name == "ErrorReason"
        for value in enum.value[1:]
    )


def linked(text: str, page: str) -> str:
    """Text in which methods and reasons outside code are links, as seen from one of the two generated pages."""
    api, errors = ("" if page == one else one for one in ("api.md", "errors.md"))

    def link(match: re.Match[str]) -> str:
        word = match[0]
        if word in methods():
            return f"[{word}]({api}#{anchor(methods()[word])})"
        # A method's comment has a reason behind its status code. A word like INTERNAL is both.
        if word in reasons() and "_" in word:
            return f"[{word}]({errors}#{word.lower()})"
        return word

    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"\b[A-Z]\w+\b", link, part) for part in parts)
