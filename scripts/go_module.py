"""Packs the Go client as a module that `GOPROXY=file://…` serves: `python -m scripts.go_module DIRECTORY`."""

import json
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "clients" / "go"
MODULE = "metamorph.internal/go"
# So that the same sources make the same zip.
TIME = (1980, 1, 1, 0, 0, 0)


def pack(directory: Path) -> Path:
    """Writes the files of a module proxy (https://go.dev/ref/mod#goproxy-protocol). Returns the path of the zip."""
    version = "v" + tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]["version"]
    served = directory / MODULE / "@v"
    served.mkdir(parents=True, exist_ok=True)
    (served / "list").write_text(f"{version}\n")
    (served / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-01-01T00:00:00Z"}))
    (served / f"{version}.mod").write_bytes((SOURCE / "go.mod").read_bytes())
    packed = served / f"{version}.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in SOURCE.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{MODULE}@{version}/{path.relative_to(SOURCE).as_posix()}", TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return packed


if __name__ == "__main__":
    sys.stdout.write(f"{pack(Path(sys.argv[1]))}\n")
