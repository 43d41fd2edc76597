"""A real terminal: tmux, which draws what a program writes and can be read."""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.programs import require

CONFIGURATION = "set -g status off\nset -g history-limit 50000\n"
ENDED = "The program's exit code: "
# A shell that a program's Ctrl-C does not end.
SHELL = "trap : INT; {}; code=$?; echo; printf %s%s {} $code; exec sleep 1000"


class Terminal:
    """A terminal of 80 columns and 24 rows, in which one program runs."""

    def __init__(self, tmux: Sequence[str]) -> None:
        self._tmux = tmux

    async def type(self, text: str) -> None:
        """Types characters."""
        await self._run("send-keys", "-l", "--", text)

    async def press(self, *keys: str) -> None:
        """Presses keys by tmux's names of them, such as Enter and C-c."""
        await self._run("send-keys", *keys)

    async def paste(self, text: str) -> None:
        """Pastes a text, bracketed if the program asks for that."""
        await self._run("set-buffer", text)
        await self._run("paste-buffer", "-p")

    async def resize(self, columns: int, rows: int) -> None:
        """Makes the terminal as large as that."""
        await self._run("resize-window", "-x", str(columns), "-y", str(rows))

    async def screen(self) -> list[str]:
        """Returns the rows, less the empty ones at the end."""
        return _rows(await self._run("capture-pane", "-p"))

    async def everything(self) -> list[str]:
        """Returns the rows of the scroll-back and of the screen."""
        return _rows(await self._run("capture-pane", "-p", "-S", "-"))

    async def title(self) -> str:
        """Returns the title that the program has given its window."""
        return (await self._run("display-message", "-p", "#{pane_title}")).strip()

    async def cursor(self) -> bool:
        """Returns whether the cursor is shown."""
        return (await self._run("display-message", "-p", "#{cursor_flag}")).strip() == "1"

    async def until(self, shown: str | Callable[[str], bool], seconds: float = 30) -> str:
        """Waits until the screen contains a text, or fulfils a condition. Returns the screen."""
        screen = ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    screen = "\n".join(await self.screen())
                    if shown in screen if isinstance(shown, str) else shown(screen):
                        return screen
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"the terminal never shows it; now it shows:\n{screen}") from None

    async def exit_code(self) -> int:
        """Waits until the program has ended. Returns its exit code."""
        screen = await self.until(lambda shown: ENDED in shown)
        return int(screen.rsplit(ENDED, 1)[1])

    async def _run(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(*self._tmux, *arguments, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert process.returncode == 0, arguments
        return out.decode()


@asynccontextmanager
async def terminal(directory: Path, *command: str) -> AsyncIterator[Terminal]:
    """Runs a command in a terminal. Skips the test without tmux."""
    program = require("tmux", hint="install tmux")
    configuration = directory / "tmux.conf"
    configuration.write_text(CONFIGURATION)
    # The path of a socket has at most 107 bytes, which a test's own directory may exceed.
    sockets = tempfile.mkdtemp(prefix="tmux-")
    tmux = [program, "-u", "-S", f"{sockets}/s", "-f", str(configuration)]
    process = await asyncio.create_subprocess_exec(
        *(*tmux, "new-session", "-d", "-x", "80", "-y", "24", SHELL.format(shlex.join(command), shlex.quote(ENDED))),
        env={name: value for name, value in os.environ.items() if name not in {"TMUX", "COLUMNS", "LINES", "CI"}}
        | {"XDG_STATE_HOME": str(directory / "state")},
    )
    assert await process.wait() == 0
    try:
        yield Terminal(tmux)
    finally:
        await (await asyncio.create_subprocess_exec(*tmux, "kill-server")).wait()
        shutil.rmtree(sockets)


def _rows(captured: str) -> list[str]:
    return [row.rstrip() for row in captured.rstrip().split("\n")]
