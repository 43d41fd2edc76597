"""Writes generated vaults into a database file, in bulk.

`tests/store/sqlite/test_generated.py` compares every row with those that the store's operations write for the same
vaults.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import apsw
import orjson
from metamorphd.clock import day_of
from metamorphd.models.attachment import Upload
from metamorphd.models.change import ChangedResource, ChangeVerb
from metamorphd.models.content import Content, ImageBlock, TextBlock
from metamorphd.models.turn import StopReason, TurnStatus
from metamorphd.models.usage import SubjectKind, Usage
from metamorphd.store.codec import encode_content
from metamorphd.store.database import SqlValue
from metamorphd.store.search.postings import FOLDING

from tests.support.generated.corpus import CORPUS
from tests.support.generated.layout import LARGE_VAULT, SessionPlan, VaultPlan, time_of
from tests.support.generated.links import link_of
from tests.support.generated.postings import Postings, text_words
from tests.support.media import png

MODEL = "claude-sonnet-5-5"
OWNER = "srv_generated"
LEASE = 30_000_000
USAGE = Usage(input_tokens=60, output_tokens=50, cost_usd_nanos=620_000)
REPLY_USAGE = (USAGE.input_tokens, USAGE.output_tokens, 0, 0, USAGE.cost_usd_nanos, False)
NO_USAGE = (None,) * 6
DAY_SECONDS = 86_400
# Of a turn with one delta: its first event, that one, and its last.
LAST_SEQUENCE = 3
GONE = 2
# Messages a transaction.
BATCH = 20_000
ATTACHMENTS = 10
ATTACHMENT_BYTES = 2_000
CALL_ID = "call-1"

Row = tuple[SqlValue, ...]

COLUMNS = {
    "vaults": """vault_id display_name default_model system_prompt hash_key revision create_time update_time
        last_message_number""",
    "sessions": """vault_id session_id title model system_prompt metadata archived creator message_count
        current_leaf_message_id create_time update_time last_message_time last_activity_time revision""",
    "session_metadata": "vault_id key value session_id",
    "messages": """vault_id message_id session_id ordinal parent_message_id role content size turn_id creator model
        input_tokens output_tokens cache_read_tokens cache_write_tokens cost_usd_nanos estimated create_time""",
    "message_links": """vault_id message_id session_id parent_message_id depth jump_message_id jump_depth size opens
        summarizes""",
    "turns": """vault_id turn_id session_id user_message_id reply_message_id status stop_reason input_tokens
        output_tokens cache_read_tokens cache_write_tokens cost_usd_nanos model model_calls last_sequence creator
        create_time finish_time pruned owner lease_expire_time""",
    "usage": """vault_id day session_id model input_tokens output_tokens cache_read_tokens cache_write_tokens
        cost_usd_nanos turns""",
    "daily_usage": """vault_id day model input_tokens output_tokens cache_read_tokens cache_write_tokens cost_usd_nanos
        turns""",
    "subject_usage": """vault_id kind subject day model input_tokens output_tokens cache_read_tokens cache_write_tokens
        cost_usd_nanos turns estimated""",
    "attachments": "vault_id attachment_id media_type size sha256 create_time",
    "attachment_chunks": "vault_id attachment_id number data",
    "attachment_uses": "vault_id attachment_id message_id session_id",
    "indexed_messages": "vault_id number message_id word_count pending folding",
    "postings": "vault_id block term offsets",
    "changes": "vault_id revision change_time actor call_id resource resource_id verb",
}
SQL = {
    table: f"INSERT INTO {table} ({', '.join(columns.split())}) VALUES ({', '.join('?' * len(columns.split()))})"  # noqa: S608
    for table, columns in COLUMNS.items()
}


class Stock:
    """Writes vaults. Calls `advance` with how many messages were stored."""

    def __init__(self, connection: apsw.Connection, *, advance: Callable[[int], None]) -> None:
        self._connection = connection
        self._advance = advance
        self._rows: defaultdict[str, list[Row]] = defaultdict(list)
        self._contents = [encode_content((TextBlock(text),)) for text in CORPUS.texts]

    def write(self, vault: VaultPlan) -> None:
        """Writes a vault and all that is in it."""
        begin = time_of(0)
        self._rows["vaults"].append((vault.vault_id, "", "", "", hash_key(vault), 1, begin, begin, vault.messages))
        self._postings = Postings(vault.vault_id, hash_key(vault), vault.messages)
        self._revision = 0
        spent: dict[str, int] = defaultdict(int)
        spent_by: dict[tuple[str, str], int] = defaultdict(int)
        for session in vault.sessions():
            self._session(session)
            for day, turns in self._usage(session):
                spent[day] += turns
                spent_by[session.creator, day] += turns
            if len(self._rows["messages"]) >= BATCH:
                self._store()
        self._rows["daily_usage"] += [(vault.vault_id, day, MODEL, *_used(turns)) for day, turns in spent.items()]
        self._rows["subject_usage"] += [
            (vault.vault_id, SubjectKind.USER, user, day, MODEL, *_used(turns), False)
            for (user, day), turns in spent_by.items()
        ]
        self._store()

    def _store(self) -> None:
        self._connection.execute("BEGIN")
        for table, rows in self._rows.items():
            self._connection.executemany(SQL[table], rows)
        self._connection.execute("COMMIT")
        self._advance(len(self._rows["messages"]))
        self._rows.clear()

    def _session(self, plan: SessionPlan) -> None:
        begin, last = time_of(plan.first), time_of(plan.first + plan.size - 1)
        self._rows["sessions"].append(
            (
                *(plan.vault.vault_id, plan.session_id, title(plan), "", "", metadata_text(plan), plan.archived),
                *(plan.creator, plan.size, plan.message_id(plan.size - 1), begin, begin, last, last, 1),
            )
        )
        self._rows["session_metadata"] += [
            (plan.vault.vault_id, key, value, plan.session_id) for key, value in metadata(plan).items()
        ]
        if not plan.number:
            self._change(plan, 0, ChangedResource.VAULT, plan.vault.vault_id, ChangeVerb.CREATED)
        self._change(plan, 0, ChangedResource.SESSION, plan.session_id, ChangeVerb.CREATED)
        for place in range(plan.size):
            self._message(plan, place)
            self._change(plan, place, ChangedResource.MESSAGE, plan.message_id(place), ChangeVerb.CREATED)
            if place % 2 == 0:
                self._turn(plan, place)
            verb = ChangeVerb.COMPLETED if place % 2 else ChangeVerb.STARTED
            self._change(plan, place, ChangedResource.TURN, plan.turn_id(place - place % 2), verb)

    def _change(
        self, plan: SessionPlan, place: int, resource: ChangedResource, resource_id: str, verb: ChangeVerb
    ) -> None:
        self._revision += 1
        now = time_of(plan.first + place)
        self._rows["changes"].append(
            (plan.vault.vault_id, self._revision, now, plan.creator, CALL_ID, resource, resource_id, verb)
        )

    def _message(self, plan: SessionPlan, place: int) -> None:
        vault = plan.vault
        number, reply = plan.first + place, place % 2 == 1
        added = CORPUS.added_word(number, vault.rare_every)
        text_number = CORPUS.text_number(number)
        attachment = None if reply else attachment_of(plan, place)
        if attachment is not None:
            self._attachment(plan, place, attachment)
            encoded = encode_content(content_of(plan, place))
        else:
            encoded = self._contents[text_number]
            if added:
                # Before the closing quotation mark of the only block.
                encoded = f"{encoded[:-3]} {added}{encoded[-3:]}"
        message_id, link = plan.message_id(place), link_of(place)
        parent_id = None if link.parent is None else plan.message_id(link.parent)
        # All of it is ASCII.
        size = len(encoded)
        self._rows["messages"].append(
            (
                *(vault.vault_id, message_id, plan.session_id, place + 1, parent_id),
                *("ASSISTANT" if reply else "USER", encoded, size, plan.turn_id(place - reply)),
                *(plan.creator, MODEL if reply else "", *(REPLY_USAGE if reply else NO_USAGE), time_of(number)),
            )
        )
        self._rows["message_links"].append(
            (
                *(vault.vault_id, message_id, plan.session_id, parent_id),
                *(link.depth, plan.message_id(link.jump), link.jump_depth, size, not reply, False),
            )
        )
        # Its text's words, its session, and what it has beside.
        words = text_words(text_number) + 1 + bool(added)
        self._rows["indexed_messages"].append((vault.vault_id, number + 1, message_id, words, 0, FOLDING))
        self._rows["postings"] += self._postings.add(number + 1, plan.session_id, added)

    def _turn(self, plan: SessionPlan, place: int) -> None:
        asked, answered = time_of(plan.first + place), time_of(plan.first + place + 1)
        self._rows["turns"].append(
            (
                *(plan.vault.vault_id, plan.turn_id(place), plan.session_id, plan.message_id(place)),
                *(plan.message_id(place + 1), TurnStatus.COMPLETED, StopReason.END_TURN),
                *(USAGE.input_tokens, USAGE.output_tokens, 0, 0, USAGE.cost_usd_nanos, MODEL, 1, LAST_SEQUENCE),
                *(plan.creator, asked, answered, GONE, OWNER, asked + LEASE),
            )
        )

    def _usage(self, plan: SessionPlan) -> Iterator[tuple[str, int]]:
        """Adds what a session has used; yields its days with their turns."""
        days = Counter((plan.first + place) // DAY_SECONDS for place in range(1, plan.size, 2))
        for number, turns in days.items():
            day = day_of(time_of(number * DAY_SECONDS)).isoformat()
            self._rows["usage"].append((plan.vault.vault_id, day, plan.session_id, MODEL, *_used(turns)))
            yield day, turns

    def _attachment(self, plan: SessionPlan, place: int, block: ImageBlock) -> None:
        vault_id, now = plan.vault.vault_id, time_of(plan.first + place)
        self._change(plan, place, ChangedResource.ATTACHMENT, block.attachment_id, ChangeVerb.CREATED)
        self._rows["attachments"].append(
            (vault_id, block.attachment_id, block.media_type, block.size, block.sha256, now)
        )
        self._rows["attachment_chunks"].append((vault_id, block.attachment_id, 0, upload(plan, place).data))
        self._rows["attachment_uses"].append((vault_id, block.attachment_id, plan.message_id(place), plan.session_id))


def hash_key(vault: VaultPlan) -> bytes:
    """Returns a vault's key, which elsewhere is random."""
    return hashlib.blake2b(vault.vault_id.encode(), digest_size=32).digest()


def title(plan: SessionPlan) -> str:
    """Returns the title of a session."""
    return f"Conversation {plan.number}"


def metadata(plan: SessionPlan) -> dict[str, str]:
    """Returns the metadata of a session."""
    return {"project": f"p{plan.number % 10}"}


def metadata_text(plan: SessionPlan) -> str:
    """Returns the metadata of a session as it is stored."""
    return orjson.dumps(metadata(plan)).decode()


def attachment_of(plan: SessionPlan, place: int) -> ImageBlock | None:
    """Returns the image of a message: the first messages of ten sessions of the large vault have one."""
    if place or plan.vault.vault_id != LARGE_VAULT or plan.number >= ATTACHMENTS:
        return None
    image = upload(plan, place)
    return ImageBlock(image.attachment_id, image.media_type, len(image.data), image.sha256)


def upload(plan: SessionPlan, place: int) -> Upload:
    """Returns a message's image: the smallest one, with what makes each another behind it."""
    image = png()
    return Upload.of("image/png", image + f"{plan.message_id(place):{ATTACHMENT_BYTES - len(image)}}".encode())


def content_of(plan: SessionPlan, place: int) -> Content:
    """Returns the content of a message."""
    number = plan.first + place
    added = CORPUS.added_word(number, plan.vault.rare_every)
    text = CORPUS.texts[CORPUS.text_number(number)]
    block = TextBlock(f"{text} {added}" if added else text)
    attachment = None if place % 2 else attachment_of(plan, place)
    return (block,) if attachment is None else (block, attachment)


def _used(turns: int) -> tuple[int, ...]:
    """Returns the sums of so many turns, in the order of the columns."""
    return (USAGE.input_tokens * turns, USAGE.output_tokens * turns, 0, 0, USAGE.cost_usd_nanos * turns, turns)
