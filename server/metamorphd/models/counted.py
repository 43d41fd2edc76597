"""Numbers with what they count."""


def counted(count: int, one: str, several: str = "") -> str:
    """Returns a number and the noun for it, as `1 turn`, `1,200 turns`. `several` is `one` with an s if empty."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
