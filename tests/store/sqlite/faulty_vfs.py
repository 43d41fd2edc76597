"""A SQLite VFS over the real one that fails on request, as a full or broken disk does."""

import apsw


class _File(apsw.VFSFile):
    def __init__(self, vfs: "FaultyVFS", name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._vfs = vfs
        self._log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._log:
            end = offset + len(data)
            if self._vfs.log_limit is not None and end > self._vfs.log_limit:
                raise apsw.FullError("no space left")
            self._vfs.log_size = max(self._vfs.log_size, end)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._log and self._vfs.failing_syncs > 0:
            self._vfs.failing_syncs -= 1
            raise apsw.IOError("sync failed")
        super().xSync(flags)


class FaultyVFS(apsw.VFS):
    """`log_limit` is the maximum size of the log in bytes, None for no limit; `log_size` is its current size.

    `failing_syncs` is the number of log syncs that will fail: COMMITs, under synchronous=FULL.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.log_limit: int | None = None
        self.log_size = 0
        self.failing_syncs = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:
        return _File(self, name, flags)
