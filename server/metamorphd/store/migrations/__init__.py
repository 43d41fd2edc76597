"""The schema's steps, one folder a dialect; both hold the same tables and columns."""

from importlib import resources


def load(dialect: str) -> list[tuple[int, str]]:
    """Every step of a dialect, oldest first: its version and its statements."""
    files = [file for file in resources.files(__name__).joinpath(dialect).iterdir() if file.name.endswith(".sql")]
    return [(int(file.name.partition("_")[0]), file.read_text()) for file in sorted(files, key=lambda file: file.name)]
