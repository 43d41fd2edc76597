"""`.env.example` and docs/settings.md."""

import datetime
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

from metamorphd.settings.client import ClientSettings
from metamorphd.settings.server import Settings
from metamorphd.settings.values import as_text
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from scripts.docs.markdown import NOTICE, code, table

GROUPS: tuple[tuple[type[Settings | ClientSettings], str], ...] = (
    (Settings, "The server"),
    (ClientSettings, "The `metamorph chat` command"),
)
# To set one, even to its default, is a choice that a copy of `.env.example` must not make: then no secret is required.
CHOICES = {"EMBLEM_API_URL"}
SETTINGS_INTRO = """\
# Settings

Each setting is an environment variable, or a line of a `.env` file in the working directory. The environment wins. A
variable that is set to nothing counts as not set, except `EMBLEM_API_URL`. If a setting keeps the server from starting,
one line on standard error names it and says what to do.

Production (`NODE_ENV=production`) needs two settings: `ANTHROPIC_API_KEY` and `EMBLEM_JWT_SECRET`. With a key set,
`EMBLEM_JWKS_URL`, it also needs `EMBLEM_JWT_ISSUER` and `EMBLEM_JWT_AUDIENCE`.
[.env.example](../.env.example) is a file to copy. An operator can read the settings in force with
AdminService/GetServerInfo, which shows of a secret only whether it is set.
"""


def variables(group: type[Settings | ClientSettings]) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a group with the name of its environment variable."""
    prefix = str(group.model_config.get("env_prefix", ""))
    for name, field in group.model_fields.items():
        yield f"{prefix}{name}".upper(), field


def accepts(field: FieldInfo) -> str:
    """The values that a setting takes, for example `integer, 0 to 65535`."""
    kinds = {
        bool: "`true` or `false`",
        int: "integer",
        float: "number",
        str: "text",
        Path: "path",
        SecretStr: "secret",
        datetime.date: "date",
    }
    options = get_args(field.annotation) if get_origin(field.annotation) is types.UnionType else (field.annotation,)
    (kind,) = (option for option in options if option is not types.NoneType)
    if get_origin(kind) is typing.Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    limits = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "gt", "le") if hasattr(rule, name)
    }
    text = kinds[kind]
    if "ge" in limits and "le" in limits:
        return f"{text}, {limits['ge']} to {limits['le']}"
    words = {"ge": "at least", "gt": "more than", "le": "at most"}
    return ", ".join([text, *(f"{words[name]} {value}" for name, value in limits.items())])


def env_example() -> str:
    """`.env.example`: every variable with its description and default."""
    lines = ["# Generated from the settings by `make generate`. Copy to .env and fill in; never commit that file."]
    for group, _ in GROUPS:
        for name, field in variables(group):
            comment = textwrap.wrap(str(field.description), 118, initial_indent="# ", subsequent_indent="# ")
            lines += ["", *comment, f"{'# ' if name in CHOICES else ''}{name}={as_text(field.default)}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md."""
    parts = [NOTICE + SETTINGS_INTRO]
    for group, title in GROUPS:
        rows = (
            (f"`{name}`", code(as_text(field.default)), accepts(field), str(field.description))
            for name, field in variables(group)
        )
        parts.append(f"## {title}\n\n{table(('Variable', 'Default', 'Accepts', 'Meaning'), rows)}")
    return "\n".join(parts)
