"""The recipes that are programs in Python."""

import re
from pathlib import Path

import pytest
from metamorph_client.vault.v1.vault_service_pb2 import GetVaultRequest

from tests.examples.running import printed
from tests.support.fakes.messages_api import FakeMessagesApi
from tests.support.fakes.replies import Reply, tool_use
from tests.support.media import png
from tests.support.serving import Serving, asking
from tests.support.tokens import mint


async def test_the_tool_loop_answers_every_call_and_prints_the_reply(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.script.extend(
        [
            Reply(
                (
                    tool_use("toolu_1", "temperature", '{"city": "Oslo"}'),
                    tool_use("toolu_2", "temperature", '{"city": "Atlantis"}'),
                ),
                stop_reason="tool_use",
            ),
            Reply((tool_use("toolu_3", "convert", '{"degrees": -3.5, "unit": "fahrenheit"}'),), stop_reason="tool_use"),
            Reply(("It is 25.7 °F in Oslo.",)),
        ]
    )
    async with asking(api, tmp_path) as server:
        result = await printed("tool_loop.py", cwd=tmp_path, METAMORPH_TARGET=server.target, METAMORPH_TOKEN=mint())
    assert result == (0, "It is 25.7 °F in Oslo.\n", "")
    answers = [
        (block["tool_use_id"], block["content"][0]["text"], block.get("is_error", False))
        for request in api.requests[-2:]
        for block in request.body["messages"][-1]["content"]
    ]
    assert answers == [
        ("toolu_1", "-3.5", False),
        ("toolu_2", "no station in Atlantis: there is one in Oslo, Rome", True),
        ("toolu_3", "25.7", False),
    ]


async def test_the_tool_loop_says_that_an_answer_was_cut_short(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.default = Reply(("It is",), stop_reason="max_tokens")
    async with asking(api, tmp_path) as server:
        result = await printed("tool_loop.py", cwd=tmp_path, METAMORPH_TARGET=server.target, METAMORPH_TOKEN=mint())
    assert result == (1, "It is\n", "not the whole answer: STOP_REASON_MAX_TOKENS\n")


async def test_the_image_question_uploads_once_and_asks_twice(api: FakeMessagesApi, tmp_path: Path) -> None:
    api.script.extend([Reply(("A black ", "square.")), Reply(("Black.",))])
    (tmp_path / "chart.png").write_bytes(png(4, 4))
    async with asking(api, tmp_path) as server:
        code, out, _ = await printed(
            "image_question.py",
            *("chart.png", "What", "is", "it?"),
            cwd=tmp_path,
            METAMORPH_TARGET=server.target,
            METAMORPH_TOKEN=mint(),
        )
    assert (code, out) == (0, "A black square.\nBlack.\n")
    kinds = [block["type"] for block in api.requests[-2].body["messages"][0]["content"]]
    assert kinds == ["image", "text"]


async def test_the_image_question_says_why_a_file_is_refused(api: FakeMessagesApi, tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"no image")
    async with asking(api, tmp_path) as server:
        code, out, err = await printed(
            "image_question.py", "chart.png", cwd=tmp_path, METAMORPH_TARGET=server.target, METAMORPH_TOKEN=mint()
        )
    assert (code, out) == (1, "")
    assert err.startswith("ATTACHMENT_"), err


@pytest.mark.parametrize(
    "command", [("image_question.py",), ("team_budgets.py",), ("team_budgets.py", "web"), ("team_budgets.py", *"abc")]
)
async def test_a_recipe_without_its_arguments_says_which_it_takes(command: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = await printed(*command, cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith(f"usage: python examples/{command[0]} ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("of_team", "of_user", "subject"), [("10", "100000", "label:team=web"), ("100000", "10", "user")]
)
async def test_the_budgets_of_a_team_refuse_what_goes_beyond_them(
    running: Serving, tmp_path: Path, of_team: str, of_user: str, subject: str
) -> None:
    tokens = {"METAMORPH_OPERATOR_TOKEN": mint(vault="operations", operator=True), "METAMORPH_TOKEN": mint()}
    arguments = ("team_budgets.py", "web", of_team, of_user)
    code, out, err = await printed(*arguments, cwd=tmp_path, METAMORPH_TARGET=running.target, **tokens)
    assert (code, err) == (0, "")
    used, refused, *statuses = out.splitlines()
    assert re.fullmatch(r"message 1 used \d+ tokens", used)
    assert re.fullmatch(rf"message 2 is refused: {subject} has no tokens for \d+\.\d hours", refused)
    assert [re.sub(r"\d+ left", "… left", re.sub(r"\d+ of", "… of", status)) for status in statuses] == [
        f"alice: … of {of_user} tokens_per_day used, … left",
        f"team=web: … of {of_team} tokens_per_day used, … left",
    ]


async def test_the_budgets_of_other_teams_stay_when_one_is_set(running: Serving, tmp_path: Path) -> None:
    tokens = {"METAMORPH_OPERATOR_TOKEN": mint(vault="operations", operator=True), "METAMORPH_TOKEN": mint()}
    for team, of_team in (("web", "10"), ("search", "10"), ("web", "20")):
        arguments = ("team_budgets.py", team, of_team, "1000")
        code, _, err = await printed(*arguments, cwd=tmp_path, METAMORPH_TARGET=running.target, **tokens)
        assert (code, err) == (0, "")
    alice = running.caller()
    vault = (await alice.vault.GetVault(GetVaultRequest(), metadata=alice.metadata)).vault
    budgets = [(each.label, each.budget.tokens_per_day) for each in vault.operator_subject_budgets.labels]
    assert budgets == [("team=search", 10), ("team=web", 20)]
