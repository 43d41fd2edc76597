"""Faults of imports."""

from typing import Any

from metamorphd.store import imports as store
from metamorphd.transfers import imports

from harness.mutants import Patch, mutant

STORE: Any = store
IMPORTS: Any = imports.Imports
PART = "imports of which the next start shows a part"
LEFT = "imports that leave rows or files behind"


@mutant("import-is-not-ended", harness="imports", shown_by={LEFT})
def _import_is_not_ended(patch: Patch) -> None:
    """Nobody discards or reveals what a killed server has staged."""

    async def work(self: Any) -> None:
        """Does nothing."""

    patch(IMPORTS, "work", work)


@mutant("import-file-is-kept", harness="imports", shown_by={LEFT})
def _import_file_is_kept(patch: Patch) -> None:
    def prepare(self: Any) -> None:
        """Does nothing."""

    patch(IMPORTS, "_prepare", prepare)


@mutant("import-is-complete-from-the-beginning", harness="imports", shown_by={PART})
def _import_is_complete_from_the_beginning(patch: Patch) -> None:
    """After a kill, reveals whatever is staged."""
    patch(STORE, "CREATE_IMPORT", store.CREATE_IMPORT.replace("'staging'", "'revealing'"))
    patch(STORE, "SET_STATE", store.SET_STATE.replace("state = 'staging'", "state <> 'discarding'"))
