"""Tables of pages."""

from pathlib import Path


def table(page: Path, first_column: str) -> list[list[str]]:
    """Returns the rows of the table of a page whose first column has this heading."""
    lines = page.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |")) + 2
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
