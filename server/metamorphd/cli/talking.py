"""A conversation with someone who types messages, and commands that begin with a slash."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from metamorph_client import MetamorphError
from metamorph_client.chat.v1.session_pb2 import Session

from metamorphd.cli.conversation import Conversation
from metamorphd.cli.endings import failed_call
from metamorphd.cli.listing import printable
from metamorphd.cli.lists import last_active
from metamorphd.cli.outcomes import cost
from metamorphd.cli.prompting import prompt_of
from metamorphd.cli.stopping import Left
from metamorphd.cli.terminal import Terminal
from metamorphd.models.counted import counted

# By name, what each takes and does.
COMMANDS = {
    "/help": ("", "list these commands"),
    "/model": ("[NAME]", "use another model from now on, or list them"),
    "/new": ("", "begin another session"),
    "/quit": ("", "end, like Ctrl-D"),
    "/regenerate": ("", "have the latest message answered again"),
    "/session": ("ID", "go on in another session"),
    "/sessions": ("", "list the latest sessions, and go on in one"),
    "/usage": ("", "show what this session and the vault have used this month"),
}
Returned = TypeVar("Returned")


class Talk:
    """A conversation that is typed. Whatever refuses a message or a command is printed, and the talk goes on."""

    def __init__(
        self,
        runner: asyncio.Runner,
        conversation: Conversation,
        terminal: Terminal,
        models: Sequence[str],
        hints: Mapping[grpc.StatusCode, str],
    ) -> None:
        self._runner = runner
        self._conversation = conversation
        self._terminal = terminal
        self._models = models
        self._hints = hints
        self._listed: list[Session] = []
        self._complete = True

    def go_on(self, *, history: bool) -> bool:
        """Sends what is typed, until Ctrl-D, Ctrl-C or /quit. Returns whether the last reply is complete.

        What is typed is kept in the file of the history, if that is on.
        """
        self._prompt = prompt_of(self._runner, self._suggestions, history=history)
        where = f"Session {self._conversation.session_id}" if self._conversation.session_id else "A new session"
        self._terminal.note(f"{where}. /help lists commands, Ctrl-C stops replies, Ctrl-D ends.")
        try:
            while (text := self._prompt.ask()) is not None:
                # Of several lines, or after a space, a slash begins a message.
                if text.startswith("/") and "\n" not in text.strip():
                    name, _, argument = text.strip().partition(" ")
                    if name == "/quit":
                        break
                    self._command(name, argument.strip())
                elif text.strip():
                    self._reply(self._conversation.send(text.strip()))
        except Left:
            self._complete = False
        return self._complete

    def _suggestions(self, typed: str) -> dict[str, str]:
        """Returns how a line that begins so may go on, and what that does."""
        if typed.startswith("/model "):
            return {f"/model {model}": "" for model in self._models}
        if typed.startswith("/session "):
            return {f"/session {each.session_id}": printable(each.title) for each in self._listed}
        return {name: does for name, (_, does) in COMMANDS.items()}

    def _command(self, name: str, argument: str) -> None:
        commands: dict[str, Callable[[], None]] = {
            "/help": self._help,
            "/model": lambda: self._model(argument),
            "/new": self._new,
            "/regenerate": lambda: self._reply(self._conversation.regenerate()),
            "/session": lambda: self._open(argument),
            "/sessions": self._sessions,
            "/usage": self._usage,
        }
        if name not in commands:
            self._terminal.note(f"There is no command {name}. To send what begins with a slash, put a space before it.")
        commands.get(name, self._help)()

    def _help(self) -> None:
        lines = [f"{f'{name} {takes}':<15}{does}" for name, (takes, does) in COMMANDS.items()]
        self._terminal.note("\n".join(lines))

    def _model(self, name: str) -> None:
        if name and name not in self._models:
            self._terminal.note(f"The server does not accept the model {name}.")
        elif name:
            self._conversation.model = name
        used = self._conversation.model or "the session's"
        others = "" if name in self._models else f" Choose from {', '.join(self._models)}."
        self._terminal.note(f"Model: {used}.{others}")

    def _new(self) -> None:
        self._conversation.begin()
        self._terminal.note("A new session.")

    def _open(self, session_id: str) -> None:
        if not session_id:
            self._terminal.note("Name a session, as /sessions lists them: /session ID")
            return
        session = self._called(self._conversation.open(session_id))
        if session is not None:
            self._terminal.note(f"Session {session_id}: {_described(session)}")

    def _sessions(self) -> None:
        self._listed = self._called(self._conversation.sessions()) or []
        if not self._listed:
            self._terminal.note("There are no sessions yet.")
            return
        lines = [f"{number:>3}  {_described(each)}" for number, each in enumerate(self._listed, start=1)]
        self._terminal.note("\n".join(lines))
        chosen = (self._prompt.ask("Number, or Enter to stay: ", answers=True) or "").strip()
        if chosen.isdecimal() and 0 < int(chosen) <= len(self._listed):
            self._open(self._listed[int(chosen) - 1].session_id)
        elif chosen:
            self._terminal.note(f"There is no session {chosen} in the list.")

    def _usage(self) -> None:
        used = self._called(self._conversation.usage())
        if used is not None:
            session, vault = used
            self._terminal.note(f"Session: {cost(session)}\nVault: {cost(vault)}")

    def _reply(self, reply: Coroutine[Any, Any, bool | None]) -> None:
        try:
            complete = self._runner.run(reply)
        except MetamorphError as exc:
            complete = False
            self._terminal.note(failed_call(exc, self._hints).message)
        except KeyboardInterrupt:
            # Of what precedes a turn. Ctrl-C in a turn cancels it.
            complete = False
            self._terminal.note("Interrupted. Nothing was sent.")
        if complete is None:
            self._terminal.note("There is no message to answer yet.")
        else:
            self._complete = complete

    def _called(self, call: Coroutine[Any, Any, Returned]) -> Returned | None:
        """Returns what a call returns, or None if it is refused or interrupted."""
        try:
            return self._runner.run(call)
        except MetamorphError as exc:
            self._terminal.note(failed_call(exc, {}).message)
        except KeyboardInterrupt:
            self._terminal.note("Interrupted.")
        return None


def _described(session: Session) -> str:
    day = last_active(session).ToDatetime().date()
    title = " ".join(session.title.split())[:40] or "untitled"
    return f"{title}, {counted(session.message_count, 'message')}, {day}"
