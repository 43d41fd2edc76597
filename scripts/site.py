"""Builds the documentation as a static site: `python -m scripts.site DIRECTORY`. Fails for a broken link or anchor.

The pages are those of docs/, the README as the first one, and what it links to. They are written for a reader of the
repository: links to files that are no pages become text, because a site has no such files.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MKDOCS = ROOT / ".tools" / "site" / "bin" / "mkdocs"
# Pages outside docs/, with their names on the site.
OUTSIDE = {"README": "index", "CHANGELOG": "CHANGELOG", "CONTRIBUTING": "CONTRIBUTING"}
ASSETS = ROOT / "scripts" / "site_assets"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def pages() -> dict[Path, Path]:
    """The path on the site of each file that is on it."""
    placed = {ROOT / f"{name}.md": Path(f"{place}.md") for name, place in OUTSIDE.items()}
    found = (path for path in (ROOT / "docs").rglob("*") if path.is_file())
    return placed | {path: path.relative_to(ROOT / "docs") for path in found}


def relinked(text: str, page: Path, placed: dict[Path, Path]) -> str:
    """The text of a page with its links as they are on the site. Blocks of code stay as they are."""

    def link(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, hash_sign, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return match[0]
        file = (page.parent / path).resolve()
        if file not in placed:
            # A page that is missing stays a link, for mkdocs to complain about.
            return label if file.exists() else match[0]
        place = Path(os.path.relpath(placed[file], placed[page].parent)).as_posix()
        return f"{image}[{label}]({place}{hash_sign}{fragment})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def stage(directory: Path) -> None:
    """Writes what mkdocs builds the site from."""
    placed = pages()
    for source, place in placed.items():
        target = directory / "docs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(relinked(source.read_text(), source, placed))
        else:
            shutil.copy(source, target)
    shutil.copytree(ASSETS, directory / "docs", dirs_exist_ok=True)
    shutil.copy(ROOT / "mkdocs.yml", directory)


def build(site: Path) -> None:
    """Writes the site, in place of what is there. Exits with mkdocs's warnings if there are any."""
    with tempfile.TemporaryDirectory() as scratch:
        stage(Path(scratch))
        render(Path(scratch), site)


def render(staged: Path, site: Path) -> None:
    # Not with --quiet, which makes --strict overlook warnings.
    command = [str(MKDOCS), "build", "--strict", "--site-dir", str(site.resolve())]
    # Without the notice that its authors print about their next program.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=staged, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stderr)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
