"""Edits messages on a terminal. Imported when it prompts, because it takes long to import."""

import asyncio
import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, DummyCompleter, DynamicCompleter, WordCompleter
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.utils import get_term_environment_variable

from metamorphd.cli.history import History
from metamorphd.cli.prompting import Suggestions


class Editor:
    """Asks for messages of one or more lines: Enter sends, Alt-Enter begins another line, a pasted text is one message.

    Those that begin with a space are not kept in the history.
    """

    def __init__(self, runner: asyncio.Runner, suggestions: Suggestions, history: History) -> None:
        self._runner = runner
        self._suggestions = suggestions
        self._history = history
        output = Vt100_Output.from_pty(sys.stdout, term=get_term_environment_variable())
        # It would ask where the cursor is, and the answer may come when nothing reads it any more.
        output.enable_cpr = False
        self._messages: PromptSession[str] = PromptSession(
            multiline=True,
            prompt_continuation="  ",
            history=InMemoryHistory(history.read()),
            completer=DynamicCompleter(self._completer),
            complete_while_typing=Condition(self._is_command),
            key_bindings=self._bindings(),
            enable_suspend=True,
            output=output,
        )
        self._answers: PromptSession[str] = PromptSession(output=output)

    def ask(self, prompt: str = "> ", *, answers: bool = False) -> str | None:
        """Returns what is typed, or None for Ctrl-D and Ctrl-C."""
        session = self._answers if answers else self._messages
        try:
            text: str = self._runner.run(session.prompt_async(prompt, handle_sigint=False))
        except (EOFError, KeyboardInterrupt):
            return None
        # Bytes that are not UTF-8 cannot be sent.
        return text.encode(errors="replace").decode()

    def _typed(self) -> str:
        typed: str = self._messages.default_buffer.document.text_before_cursor
        return typed

    def _is_command(self) -> bool:
        return self._typed().startswith("/")

    def _completer(self) -> Completer:
        if not self._is_command():
            return DummyCompleter()
        found = self._suggestions(self._typed())
        return WordCompleter(list(found), meta_dict=found, sentence=True)

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        # Not where the history is searched.
        writing = has_focus(DEFAULT_BUFFER)
        bindings.add("enter", filter=writing)(self._send)
        bindings.add("escape", "enter", filter=writing)(_begin_line)
        bindings.add("c-c", filter=writing)(_drop)
        return bindings

    def _send(self, event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if not buffer.text.strip():
            buffer.reset()
            return
        if not buffer.text.startswith(" "):
            buffer.append_to_history()
            self._history.add(buffer.text)
        event.app.exit(result=buffer.text)


def _begin_line(event: KeyPressEvent) -> None:
    event.current_buffer.newline(copy_margin=False)


def _drop(event: KeyPressEvent) -> None:
    """Drops what is typed, or leaves if there is nothing."""
    if event.current_buffer.text:
        event.current_buffer.reset()
    else:
        event.app.exit(exception=KeyboardInterrupt())
