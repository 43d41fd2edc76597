"""Rules of arguments that several commands have."""

import sys

import click

# Of a request, whatever the server's own limit.
LARGEST_BYTES = 32 * 2**20
VAULT_RULE = "a vault id has 1 to 128 letters, digits, '.', '_', ':' or '-', and begins with a letter or digit"


class Text(click.ParamType[str]):
    """Text that can be sent: UTF-8, and not empty, which is mostly a variable of a shell that is not set."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("it is empty; give it a value, or leave it out", param, ctx)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            self.fail("it is not UTF-8", param, ctx)
        return value


TEXT = Text()


def piped_text() -> str:
    """Returns what is on standard input, without space around it. Raises UsageError if that is no text, or too much."""
    piped = sys.stdin.buffer.read(LARGEST_BYTES + 1)
    if len(piped) > LARGEST_BYTES:
        raise click.UsageError("standard input has more than 32 MiB, which no message may have")
    try:
        text = piped.decode().strip()
    except UnicodeDecodeError as exc:
        raise click.UsageError("standard input is not UTF-8") from exc
    if not text:
        raise click.UsageError("standard input is empty; pass a MESSAGE or type in a terminal")
    return text


def profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of profiles that begin so, for completion."""
    from metamorphd.settings.profiles import profile_names

    return [name for name in profile_names() if name.startswith(incomplete)]
