"""`metamorph login` and `logout`, run as processes."""

import os
from pathlib import Path

import pytest

from tests.support.command import run
from tests.support.serving import Serving, serving
from tests.support.tokens import mint


def profile(name: str = "default") -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "metamorph" / "profiles" / f"{name}.json"


async def log_in(running: Serving, *name: str) -> None:
    code, out, err = await run("login", *name, "--target", running.target, "--token", "-", typed=f"{mint()}\n")
    assert (code, "You are alice of vault acme" in out, err) == (0, True, ""), out


async def listed(*arguments: str, **environment: str) -> int | None:
    code, _, _ = await run("sessions", "list", *arguments, **environment)
    return code


async def test_other_commands_use_what_a_login_kept(running: Serving) -> None:
    assert await listed() == 3
    await log_in(running)
    assert (profile().stat().st_mode & 0o777, profile().parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert await listed() == 0
    assert (await run("chat", "Hi"))[0] == 0
    assert [path.name for path in profile().parent.iterdir()] == ["default.json"]


async def test_a_profile_is_chosen_by_its_name_listed_and_deleted(running: Serving) -> None:
    await log_in(running, "work")
    assert [await listed(), await listed("--profile", "work"), await listed(METAMORPH_PROFILE="work")] == [3, 0, 0]
    assert (await run("login", "--list"))[1] == f"work\t{running.target}\n"
    assert (await run("logout", "work"))[:2] == (0, "The profile work is deleted.\n")
    code, _, err = await run("sessions", "list", "--profile", "work")
    assert (code, "`metamorph login work` makes one" in err, err.count("\n")) == (2, True, 1)
    assert (await run("logout", "work"))[0] == 1


async def test_a_token_goes_to_the_server_that_it_was_kept_for(running: Serving, tmp_path: Path) -> None:
    await log_in(running)
    async with serving(tmp_path / "other") as other:
        # That server would accept the token.
        assert [await listed("--target", other.target), await listed(METAMORPH_TARGET=other.target)] == [4, 4]
        code, _, err = await run("sessions", "list", "--profile", "default", "--target", other.target)
        assert (code, f"is for {running.target}, not for {other.target}" in err) == (2, True)
    assert await listed("--target", running.target) == 0


async def test_options_win_over_a_profile(running: Serving) -> None:
    await log_in(running)
    assert await listed("--token", mint(permissions=["write"])) == 4


async def test_nothing_is_kept_that_the_server_does_not_accept(running: Serving) -> None:
    code, out, err = await run("login", "--target", running.target, "--token", "no-token")
    assert (code, out, "TOKEN_INVALID" in err, profile().exists()) == (4, "", True, False)


@pytest.mark.parametrize("name", ["../default", "", "a/b", "x" * 65])
async def test_a_name_that_is_none_is_one_line(name: str) -> None:
    code, out, err = await run("login", name, "--target", "localhost:1")
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(("mode", "text"), [(0o644, "{}"), (0o600, "[]"), (0o600, "{")])
async def test_a_file_that_cannot_be_trusted_is_refused(mode: int, text: str) -> None:
    profile().parent.mkdir(parents=True)
    profile().write_text(text)
    profile().chmod(mode)
    code, out, err = await run("sessions", "list")
    assert (code, out, "log in anew" in err, err.count("\n")) == (2, "", True, 1)
