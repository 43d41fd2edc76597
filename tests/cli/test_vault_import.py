"""`metamorph vault import`, run as a process."""

import json
import zipfile
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metamorph_client.chat.v1.message_pb2 import ROLE_ASSISTANT, ROLE_USER
from metamorphd.cli.counting import listed

from tests.support.caller import Caller, text_of
from tests.support.command import run
from tests.support.exports import comparable, exported, records, whole
from tests.support.media import png
from tests.support.memories import made
from tests.support.serving import Serving
from tests.support.tokens import mint
from tests.support.turns import get_session, regenerate


async def imported(running: Serving, file: Path, *arguments: str) -> Mapping[str, Any]:
    """Imports a file, and returns what the command says."""
    reach = ["--target", running.target, "--token", mint(), "--json"]
    code, out, err = await run("vault", "import", str(file), *reach, *arguments)
    assert (code, err) == (0, "")
    answer: Mapping[str, Any] = json.loads(out)
    return answer


async def tree(caller: Caller, session_id: str) -> list[tuple[str, str, str | None]]:
    """Returns (author, text, text of the message that it follows) of each message."""
    messages = await caller.messages(session_id, all_branches=True)
    texts = {message.message_id: text_of(message) for message in messages}
    authors = {ROLE_USER: "user", ROLE_ASSISTANT: "assistant"}
    return [(authors[message.role], text_of(message), texts.get(message.parent_message_id)) for message in messages]


async def test_an_export_is_imported_and_a_second_time_nothing_is(running: Serving, tmp_path: Path) -> None:
    bob = running.caller(vault="other", user="bob")
    session = await bob.create_session(title="kept")
    await bob.send(session.session_id)
    file = tmp_path / "vault.ndjson"
    file.write_bytes(await exported(bob))
    answer = await imported(running, file)
    assert (answer["imported"]["session"], answer["imported"]["message"], answer["skipped"]) == (1, 2, {})
    assert comparable(await exported(running.caller())) == comparable(file.read_bytes())
    again = await imported(running, file)
    assert (again["imported"], again["skipped"]) == ({}, answer["imported"])


async def test_people_read_what_was_imported_what_was_there_and_what_was_left_out(
    running: Serving, tmp_path: Path
) -> None:
    bob = running.caller(vault="other", user="bob")
    await made(bob, "One memory")
    await bob.create_session()
    file = tmp_path / "vault.ndjson"
    file.write_bytes(whole([*records(await exported(bob))[:-1], {"kind": "hologram"}, {"kind": "hologram"}]))
    reach = ["--target", running.target, "--token", mint()]
    unknown = "Left out, because the server does not know their kind: 2 records.\n"
    first = (0, f"Imported: 1 session, 1 memory, 1 record of the vault's settings.\n{unknown}", "")
    assert await run("vault", "import", str(file), *reach) == first
    everything = "1 session, 1 memory, 1 record of the vault's settings"
    again = (0, f"Nothing new was imported.\nIn the vault already: {everything}.\n{unknown}", "")
    assert await run("vault", "import", str(file), *reach) == again
    counts = {"memory": 2, "message": 1_000, "hologram": 1}
    assert listed(counts) == "1,000 messages, 2 memories, 1 record of kind hologram"


async def test_a_file_that_is_no_export_is_one_line(running: Serving, tmp_path: Path) -> None:
    file = tmp_path / "vault.ndjson"
    file.write_text("Dear Sir or Madam\n")
    reach = ["--target", running.target, "--token", mint()]
    code, _, err = await run("vault", "import", str(file), *reach)
    assert (code, err.count("\n"), "line 1 cannot be imported" in err) == (1, 1, True)
    file.write_bytes(bytes(22 * 2**20))
    code, _, err = await run("vault", "import", str(file), *reach)
    assert (code, err.count("\n"), f"{file} cannot be read: line 1" in err) == (1, 1, True)
    file.write_text("Dear Sir or Madam\n")
    for system in ("chatgpt", "librechat", "open-webui"):
        code, _, err = await run("vault", "import", str(file), "--from", system, *reach)
        assert (code, err.count("\n"), f"{file} cannot be read" in err) == (1, 1, True)


def chatgpt_node(key: str, parent: str | None, role: str = "", text: str = "", **more: Any) -> Mapping[str, Any]:
    content = {"content_type": "text", "parts": [text]}
    message = {
        "id": key,
        "author": {"role": role},
        "create_time": 1_700_000_000.5 if role else None,
        "content": content,
        "metadata": {"model_slug": "gpt-4o"} if role == "assistant" else {},
        **more,
    }
    return {"id": key, "parent": parent, "children": [], "message": message if role else None}


async def test_a_file_in_which_another_systems_export_has_nothing_is_no_success(
    running: Serving, tmp_path: Path
) -> None:
    file = tmp_path / "conversations.json"
    file.write_text('{"a": 1}')
    code, out, err = await run(
        "vault", "import", str(file), "--from", "chatgpt", "--target", running.target, "--token", mint()
    )
    assert (code, out) == (1, "")
    assert err == f"Error: nothing in {file} can be imported; is it an export of chatgpt?\n"


async def test_chatgpts_conversations_keep_branches_models_times_and_images(running: Serving, tmp_path: Path) -> None:
    pointer = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-abc", "width": 3}
    missing = {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_none"}
    mapping = {
        "root": chatgpt_node("root", None),
        "system": chatgpt_node("system", "root", "system", "Be kind."),
        "ask": chatgpt_node(
            "ask",
            "system",
            "user",
            content={"content_type": "multimodal_text", "parts": [pointer, missing, "What is this?"]},
        ),
        "shown": chatgpt_node("shown", "ask", "assistant", "A dot."),
        "other": chatgpt_node("other", "ask", "assistant", "A pixel."),
        "tool": chatgpt_node("tool", "shown", "tool", "searched"),
        "thanks": chatgpt_node("thanks", "tool", "user", "Thanks"),
        "lost": chatgpt_node("lost", "lost", "user", "Nothing leads here"),
    }
    conversation = {"conversation_id": "c-1", "title": "Dots", "create_time": 1_700_000_000.25, "mapping": mapping}
    broken = {"conversation_id": "c-2", "title": "No messages"}
    file = tmp_path / "chatgpt.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            "conversations.json", json.dumps([{**conversation, "current_node": "thanks", "is_archived": True}, broken])
        )
        archive.writestr("file-abc-dot.png", png(3, 5))
    answer = await imported(running, file, "--from", "chatgpt")
    assert answer["imported"] == {"attachment": 1, "attachment_chunk": 1, "message": 4, "session": 1, "turn": 3}
    assert answer["lost"] == {
        "conversations with messages that nothing leads to": 1,
        "conversations without messages": 1,
        "images": 1,
        "messages of system": 1,
        "messages of tool": 1,
    }
    alice = running.caller()
    (session,) = await alice.sessions(archived=True)
    assert (session.title, session.archived, session.creator) == ("Dots", True, "alice")
    assert session.create_time.ToMicroseconds() == 1_700_000_000_250_000
    assert sorted(await tree(alice, session.session_id), key=str) == [
        ("assistant", "A dot.", "What is this?"),
        ("assistant", "A pixel.", "What is this?"),
        ("user", "Thanks", "A dot."),
        ("user", "What is this?", None),
    ]
    messages = await alice.messages(session.session_id)
    assert [text_of(message) for message in messages] == ["What is this?", "A dot.", "Thanks"]
    assert (messages[1].model, messages[1].create_time.ToMicroseconds()) == ("gpt-4o", 1_700_000_000_500_000)
    (_, chunks) = await alice.download(messages[0].content[0].image.attachment_id)
    assert b"".join(chunks) == png(3, 5)
    # And the conversation goes on, from a branch too.
    await regenerate(alice, messages[0].message_id).rest()
    await alice.send(session.session_id, "Go on")
    assert (await imported(running, file, "--from", "chatgpt"))["skipped"]["session"] == 1


async def test_chatgpts_conversations_are_read_one_at_a_time_from_parts(running: Serving, tmp_path: Path) -> None:
    file = tmp_path / "chatgpt.zip"
    with zipfile.ZipFile(file, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for part in range(2):
            given = [
                {
                    "id": f"{part}-{number}",
                    "title": f"{part}-{number}",
                    "mapping": {"a": chatgpt_node("a", None, "user", "x" * 300_000)},
                    "current_node": "a",
                }
                for number in range(5)
            ]
            archive.writestr(f"conversations-00{part}.json", json.dumps(given, indent=1))
    assert (await imported(running, file, "--from", "chatgpt"))["imported"] == {
        "message": 10,
        "session": 10,
        "turn": 10,
    }


async def test_conversations_that_are_odd_or_there_twice_do_not_keep_others_out(
    running: Serving, tmp_path: Path
) -> None:
    def conversation(key: str, text: str, **more: str) -> dict[str, Any]:
        return {"title": key, "mapping": {key: chatgpt_node(key, None, "user", text)}, "current_node": key, **more}

    given = [
        conversation("first", "half a pair \ud83d", id="1"),
        conversation("again", "", id="1"),
        conversation("twice", "again", id="1"),
        conversation("no ID", "one"),
        conversation("no ID either", "another"),
    ]
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps(given))
    answer = await imported(running, file, "--from", "chatgpt")
    assert answer["imported"] == {"session": 3, "message": 3, "turn": 3}
    assert answer["lost"] == {"conversations without messages": 1, "conversations that are there twice": 1}
    titles = {session.title for session in await running.caller().sessions()}
    assert titles == {"first", "no ID", "no ID either"}


async def test_a_text_that_is_too_long_is_shortened_and_keeps_no_others_out(running: Serving, tmp_path: Path) -> None:
    # Of characters that take up six bytes of a line each.
    nodes = {
        "a": chatgpt_node("a", None, "user", "\u0001" * (5 * 2**20)),
        "b": chatgpt_node("b", "a", "assistant", "Long."),
    }
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps([{"id": "1", "mapping": nodes, "current_node": "b"}]))
    answer = await imported(running, file, "--from", "chatgpt")
    assert (answer["imported"]["message"], answer["lost"]) == (2, {"ends of long texts": 1})
    alice = running.caller()
    (session,) = await alice.sessions()
    await regenerate(alice, (await alice.messages(session.session_id))[0].message_id).rest()


async def test_images_beyond_what_a_message_has_keep_no_others_out(running: Serving, tmp_path: Path) -> None:
    files = [
        {"type": "image", "url": f"data:image/png;base64,{b64encode(png(side)).decode()}"} for side in range(1, 71)
    ]
    messages = {"a": {"id": "a", "parentId": None, "role": "user", "content": "Look", "files": files}}
    history = {"currentId": "a", "messages": messages}
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([{"id": "w-1", "title": "Looking", "chat": {"history": history}}]))
    answer = await imported(running, file, "--from", "open-webui")
    assert (answer["imported"]["attachment"], answer["lost"]) == (63, {"images": 7})
    alice = running.caller()
    (session,) = await alice.sessions()
    (message,) = await alice.messages(session.session_id)
    assert text_of(message) == "Look"


async def test_librechats_conversation_keeps_its_tree(running: Serving, tmp_path: Path) -> None:
    def message(key: str, parent: str, text: str, *children: Any, user: bool = False, **more: Any) -> dict[str, Any]:
        fields = {"messageId": key, "parentMessageId": parent, "text": text, "isCreatedByUser": user}
        return {**fields, "createdAt": "2024-05-01T16:35:11.530Z", "children": list(children), **more}

    answers = [
        message("b", "a", "One", message("d", "b", "Why?", user=True), model="gpt-4-turbo"),
        message("c", "a", "Two", model="gpt-4-turbo", files=[{"file_id": "f"}]),
    ]
    first = message("a", "00000000-0000-0000-0000-000000000000", "Count", *answers, user=True)
    options = {"model": "gpt-4-turbo", "promptPrefix": "You count."}
    file = tmp_path / "librechat.json"
    for key in ("messages", "messagesTree"):
        given = {"conversationId": key, "title": key, "recursive": True, "options": options, key: [first]}
        file.write_text(json.dumps(given, indent=2))
        answer = await imported(running, file, "--from", "librechat")
        assert (answer["imported"], answer["lost"]) == ({"message": 4, "session": 1, "turn": 3}, {"files": 1})
    alice = running.caller()
    session = next(session for session in await alice.sessions() if session.title == "messages")
    assert (await get_session(alice, session.session_id)).system_prompt == "You count."
    assert sorted(await tree(alice, session.session_id), key=str) == [
        ("assistant", "One", "Count"),
        ("assistant", "Two", "Count"),
        ("user", "Count", None),
        ("user", "Why?", "One"),
    ]
    flat = [{**message, "children": []} for message in (first, *answers, answers[0]["children"][0])]
    file.write_text(json.dumps({"conversationId": "flat", "title": "flat", "recursive": False, "messages": flat}))
    assert (await imported(running, file, "--from", "librechat"))["imported"]["message"] == 4


async def test_open_webuis_chats_keep_branches_and_images(running: Serving, tmp_path: Path) -> None:
    url = f"data:image/png;base64,{b64encode(png()).decode()}"
    messages = {
        "a": {
            "id": "a",
            "parentId": None,
            "role": "user",
            "content": "Look",
            "timestamp": 1_700_000_000,
            "files": [{"type": "image", "url": url}, {"type": "file", "id": "x"}],
        },
        "b": {
            "id": "b",
            "parentId": "a",
            "role": "assistant",
            "model": "llama3.1:latest",
            "timestamp": 1_700_000_001,
            "content": '<details type="reasoning" done="true"><summary>Thought</summary>Hm</details>\nSeen.',
        },
        "c": {
            "id": "c",
            "parentId": "a",
            "role": "assistant",
            "model": "llama3.1:latest",
            "content": [{"type": "text", "text": "Seen"}, {"type": "image_url"}, {"type": "text", "text": "too."}],
        },
    }
    chat = {"title": "Looking", "models": ["llama3.1:latest"], "params": {"system": "Look."}}
    given = {"id": "w-1", "title": "Looking", "created_at": 1_700_000_000, "updated_at": 1_700_000_002}
    history = {"currentId": "b", "messages": messages}
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([{**given, "chat": {**chat, "history": history}}, {"id": "w-2", "chat": {}}]))
    answer = await imported(running, file, "--from", "open-webui")
    assert answer["imported"] == {"attachment": 1, "attachment_chunk": 1, "message": 3, "session": 1, "turn": 2}
    assert answer["lost"] == {
        "contents of type image_url": 1,
        "conversations without messages": 1,
        "files": 1,
        "thinking and calls of tools": 1,
    }
    alice = running.caller()
    (session,) = await alice.sessions()
    shown = await alice.messages(session.session_id)
    assert [text_of(message) for message in shown] == ["Look", "Seen."]
    assert (shown[1].model, shown[1].create_time.ToMicroseconds()) == ("llama3.1:latest", 1_700_000_001_000_000)
    assert ("assistant", "Seen\ntoo.", "Look") in await tree(alice, session.session_id)
    assert len(await tree(alice, session.session_id)) == 3
