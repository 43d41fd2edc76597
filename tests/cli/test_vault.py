"""`metamorph vault` for operators, run as a process."""

import json
from pathlib import Path

import pytest

from tests.support.command import METAMORPH, run
from tests.support.leaving import delete, erased
from tests.support.refusal import refused
from tests.support.serving import Serving, serving
from tests.support.terminal import terminal
from tests.support.tokens import SECRET, mint


async def asked(server: Serving, *arguments: str) -> tuple[int | None, str, str]:
    return await run("vault", *arguments, METAMORPH_TARGET=server.target, EMBLEM_JWT_SECRET=SECRET)


async def test_vaults_are_listed_shown_suspended_and_resumed(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        code, out, err = await asked(server, "list")
        assert (code, out, err) == (0, "", "")
        alice = server.caller()
        session = await alice.create_session()
        await alice.send(session.session_id)
        code, out, err = await asked(server, "suspend", "acme", "--reason", "unpaid")
        assert (code, out.strip(), err) == (0, "acme is suspended: unpaid", "")
        assert (await refused(alice.sessions())).reason == "VAULT_SUSPENDED"
        for arguments in (["list"], ["list", "--state", "suspended"], ["stats", "acme"]):
            code, out, _ = await asked(server, *arguments)
            assert (code, "acme" in out, "suspended: unpaid" in out) == (0, True, True)
        code, out, _ = await asked(server, "stats", "acme")
        assert {"sessions", "messages", "running turns", "memories", "used today"} <= {
            line.split("│")[1].strip() for line in out.splitlines() if "│" in line
        }
        code, out, _ = await asked(server, "resume", "acme")
        assert (code, out.strip()) == (0, "acme is active.")
        assert len(await alice.sessions()) == 1
        code, out, _ = await asked(server, "list", "--state", "suspended")
        assert (code, out) == (0, "")


async def test_vaults_are_rows_with_tabs_in_a_pipe_and_a_table_that_fits_on_a_terminal(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        for number in range(3):
            await server.caller(vault=f"team-{number}").create_session()
        _, out, _ = await asked(server, "list", "--limit", "2")
        rows = [line.split("\t") for line in out.splitlines()]
        assert [(row[0], row[2], row[5], row[6]) for row in rows] == [
            (f"team-{number}", "active", "0.00", "0.00") for number in range(2)
        ]
        await asked(server, "suspend", "team-1", "--reason", "the invoice of last month is unpaid " * 3)
        environment = [f"METAMORPH_TARGET={server.target}", f"EMBLEM_JWT_SECRET={SECRET}"]
        async with terminal(tmp_path, "env", *environment, *METAMORPH, "vault", "list") as shown:
            assert await shown.exit_code() == 0
            table = await shown.everything()
    assert table[0].split() == ["vault", "name", "state", "size", "active", "USD", "today", "USD", "month"]
    assert [row.split()[0] for row in table if row.startswith("team-")] == ["team-0", "team-1", "team-2"]
    assert max(map(len, table)) <= 80


async def test_an_erased_vault_is_released(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        alice = server.caller()
        await alice.create_session()
        code, _, err = await asked(server, "release", "acme")
        assert (code, "the vault is not deleted" in err) == (1, True)
        answer = await delete(alice)
        await erased(alice, answer.operation.operation_id)
        code, out, _ = await asked(server, "list", "--state", "deleted")
        assert (code, "acme" in out) == (0, True)
        code, out, err = await asked(server, "release", "acme")
        assert (code, out.strip(), err) == (0, "acme can be used again.", "")
        assert await alice.sessions() == []


async def test_json_has_all_that_the_api_returns(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        await server.caller().create_session()
        _, out, _ = await asked(server, "suspend", "acme", "--reason", "unpaid", "--json")
        suspended = json.loads(out)
        assert (suspended["status"]["state"], suspended["running_turn_count"]) == ("VAULT_STATE_SUSPENDED", 0)
        _, out, _ = await asked(server, "list", "--json")
        assert [json.loads(line)["status"] for line in out.splitlines()] == [suspended["status"]]
        _, out, _ = await asked(server, "stats", "acme", "--json")
        stats = json.loads(out)
        assert (stats["session_count"], stats["message_count"], stats["summary"]["status"]["reason"]) == (
            "1",
            "0",
            "unpaid",
        )
        _, out, _ = await asked(server, "resume", "acme", "--json")
        assert json.loads(out)["status"]["state"] == "VAULT_STATE_ACTIVE"


@pytest.mark.parametrize(
    ("arguments", "ended", "said"),
    [
        (["list", "--token", mint()], 4, "the token must be an operator's"),
        (["stats", "unused"], 1, "no vault unused was ever used"),
        (["resume", "unused"], 1, "no vault unused was ever used"),
        (["stats", "no/vault"], 1, "a vault's ID is as in its tokens"),
        (["suspend", "acme", "--reason", "x" * 501], 1, "a reason has at most 500 characters"),
        (["list", "--target", "localhost:1"], 3, "is the server running?"),
    ],
)
async def test_what_prevents_it_is_said_with_what_to_do(
    tmp_path: Path, arguments: list[str], ended: int, said: str
) -> None:
    async with serving(tmp_path) as server:
        code, out, err = await asked(server, *arguments)
        assert (code, out, said in err, "Traceback" in err) == (ended, "", True, False)
