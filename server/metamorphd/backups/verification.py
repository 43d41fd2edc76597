"""Verifies a backup: a test restore, without a server."""

import hashlib
import os
import threading
from pathlib import Path

from metamorphd.errors import StoreNotReady
from metamorphd.models.backup import Inspection, Manifest
from metamorphd.store.database import Progress

READ_BYTES = 2**20
# What is read once should not take the place of the database's pages.
FORGOTTEN_BYTES = 64 * 2**20
MOST_DIFFERENCES = 8


def digest(path: Path, *, stopped: threading.Event, progress: Progress) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits. Raises StoreNotReady if it is stopped."""
    hashed, size, done = hashlib.sha256(), max(path.stat().st_size, 1), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(READ_BYTES):
            if stopped.is_set():
                raise StoreNotReady(retry_delay=None)
            hashed.update(chunk)
            done += len(chunk)
            progress(done / size)
            if done % FORGOTTEN_BYTES < READ_BYTES:
                os.posix_fadvise(
                    file.fileno(), max(done - 2 * FORGOTTEN_BYTES, 0), FORGOTTEN_BYTES, os.POSIX_FADV_DONTNEED
                )
    return hashed.hexdigest()


def differences(manifest: Manifest, *, sha256: str, inspection: Inspection) -> tuple[str, ...]:
    """Returns what is wrong with a backup: what was found, and what is not as its manifest has it."""
    faults = list(inspection.faults)
    if sha256 != manifest.sha256:
        faults.append("its SHA-256 is not that of the manifest")
    if inspection.schema_version != manifest.schema_version:
        faults.append(f"its schema is {inspection.schema_version}, not {manifest.schema_version}")
    for table in sorted(manifest.row_counts.keys() | inspection.row_counts.keys()):
        found, stated = inspection.row_counts.get(table), manifest.row_counts.get(table)
        if found is None:
            faults.append(f"{table}, of {stated} rows, is missing")
        elif stated is None:
            faults.append(f"{table} is not in the manifest")
        elif found != stated:
            faults.append(f"{table} has {found} rows, not {stated}")
    # Earlier servers stated none.
    if manifest.log_heads and (inspection.log_heads, inspection.log_count) != (manifest.log_heads, manifest.log_count):
        faults.append("the ends of its logs are not those of the manifest")
    return tuple(faults[:MOST_DIFFERENCES])
