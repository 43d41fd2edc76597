"""Arguments with which no call can be made, or no server served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from metamorphd.cli import cli

from tests.support.command import run
from tests.support.commands import CLIENTS, COMMANDS
from tests.support.serving import Serving, serving
from tests.support.tokens import mint

EMPTY, NOT_UTF8 = "it is empty", "it is not UTF-8"


UNUSABLE = [
    ("--token", "two\nlines", "the token cannot be sent"),
    ("--token", "tökén", "the token cannot be sent"),
    ("--token", "a" * 8193, "the token cannot be sent"),
    ("--token", "", EMPTY),
    ("--target", "", EMPTY),
    ("--target", "nowhere", "'nowhere' is not the address of a server"),
    ("--target", "localhost:65536", "is not the address of a server"),
    ("--target", "http://localhost:50051", "is not the address of a server"),
    ("--target", "ü:50051", "is not the address of a server"),
    ("--vault", "ü", "'ü' is not the ID of a vault"),
    ("--vault", "", EMPTY),
]


def needed(command: click.Command, file: Path) -> Iterator[str]:
    for each in command.params:
        if each.required and isinstance(each, click.Option):
            yield from (each.opts[0], "something")
        elif isinstance(each, click.Argument):
            yield str(file) if isinstance(each.type, click.Path) else "something"


@pytest.mark.parametrize("path", CLIENTS, ids=" ".join)
def test_every_client_command_refuses_what_it_cannot_send(path: tuple[str, ...], tmp_path: Path) -> None:
    command = COMMANDS[path]
    options = {name for each in command.params for name in each.opts}
    file = tmp_path / "file"
    file.touch()
    for option, value, said in UNUSABLE:
        # A server that cannot be reached is a finding of `check`.
        if option in options and (path, option) != (("check",), "--target"):
            with pytest.raises(click.UsageError, match=said):
                cli.main([*path, *needed(command, file), option, value], standalone_mode=False)


async def test_a_command_that_calls_a_server_imports_nothing_of_one() -> None:
    """They took half of the time until a list was shown."""
    code, _, imported = await run("sessions", "list", "--token", "two words", PYTHONPROFILEIMPORTTIME="1")
    assert code == 2
    names = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    assert "metamorph_client" in names
    assert names & {"anthropic", "apsw", "cryptography", "httpx2", "jwt", "structlog"} == set()


def test_no_command_takes_text_unseen() -> None:
    seen = [
        (*path, each.name)
        for path, command in COMMANDS.items()
        for each in command.params
        if each.type is click.STRING and each.callback is None
    ]
    assert seen == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], EMPTY),
        (["  \n"], "the message is empty"),
        (["\udcff"], NOT_UTF8),
        (["--vault", "ü", "Hi"], "'ü' is not the ID of a vault"),
        (["--vault", "", "Hi"], EMPTY),
        (["--session", "", "Hi"], EMPTY),
        (["--token", "two\nlines", "Hi"], "the token cannot be sent"),
        (["--target", "nowhere", "Hi"], "'nowhere' is not the address of a server"),
        (["--model", "ü", "Hi"], "the server does not accept the model 'ü'; choose from "),
        (["--model", "nonsense", "Hi"], "the server does not accept the model 'nonsense'"),
        (["--nope"], "No such option '--nope'"),
    ],
)
async def test_a_chat_that_cannot_be_is_one_line_and_makes_no_session(
    running: Serving, arguments: list[str], said: str
) -> None:
    code, out, err = await run("chat", *arguments, METAMORPH_TARGET=running.target, METAMORPH_TOKEN=mint())
    assert (code, out, said in err, err.count("\n")) == (2, "", True, 1), err
    assert "chat --help" in err
    assert await running.caller().sessions() == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"METAMORPH_VAULT": "ü"}, "(--vault, METAMORPH_VAULT)"),
        ({"METAMORPH_TOKEN": "canary \n"}, "(--token, METAMORPH_TOKEN)"),
        ({"METAMORPH_TARGET": "nowhere"}, "(--target, METAMORPH_TARGET)"),
        ({"METAMORPH_TLS": "perhaps"}, "METAMORPH_TLS: "),
    ],
)
async def test_the_environment_is_judged_as_options_are(environment: dict[str, str], said: str) -> None:
    code, out, err = await run("chat", "Hi", **environment)
    assert (code, out, said in err, "canary" in err, err.count("\n")) == (2, "", True, False, 1), err


async def test_standard_input_that_is_no_text_is_refused() -> None:
    code, _, err = await run("chat", typed="\udcff")
    assert (code, "standard input is not UTF-8" in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.parametrize("option", ["--ca", "--cert"])
async def test_files_that_are_no_certificates_are_refused(option: str, tmp_path: Path) -> None:
    file = tmp_path / "not.pem"
    file.write_text("nothing")
    key = ["--key", str(file)] if option == "--cert" else []
    code, out, err = await run("vault", "list", "--token", mint(), option, str(file), *key)
    assert (code, out, f"{file}" in err, err.count("\n")) == (2, "", True, 1), err


async def test_exit_codes_say_why_a_command_cannot_do_its_work(running: Serving, unused_tcp_port: int) -> None:
    async def code(*arguments: str, **environment: str) -> Any:
        code, _, err = await run(*arguments, **({"METAMORPH_TARGET": running.target} | environment))
        assert err.count("\n") == 1, err
        return code

    known = {"METAMORPH_TOKEN": mint()}
    assert await code("chat", "--session", "ses_none", "Hi", **known) == 1
    assert await code("vault", "list", "--state", "odd", **known) == 2
    assert await code("chat", "Hi", METAMORPH_TARGET=f"127.0.0.1:{unused_tcp_port}", **known) == 3
    assert await code("chat", "Hi", METAMORPH_TOKEN="nonsense") == 4
    assert await code("vault", "list", **known) == 4


async def test_fields_that_the_server_refuses_are_named(running: Serving) -> None:
    too_long = "s" * 65
    code, _, err = await run(
        "chat", "--session", too_long, "Hi", METAMORPH_TARGET=running.target, METAMORPH_TOKEN=mint()
    )
    assert (code, "session_id: " in err, err.count("\n")) == (1, True, 1), err


@pytest.mark.parametrize("port", ["--grpc-port", "--port"])
async def test_a_taken_port_is_one_line(port: str, tmp_path: Path) -> None:
    async with serving(tmp_path / "first") as first:
        taken = str(first.server.grpc_port)
        free = {"--grpc-port": "0", "--port": "0", "--database": str(tmp_path / "second.db")} | {port: taken}
        code, out, err = await run("dev", *[text for pair in free.items() for text in pair])
    assert (code, out, f"cannot listen on port {taken}" in err, err.count("\n")) == (1, "", True, 1), err
