"""Plausible requests, made from the descriptors and from what two tenants have seen."""

import json
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import protovalidate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from metamorph_client.vault.v1.usage_pb2 import Budget
from metamorphd.catalog import load_catalog
from metamorphd.clock import Clock
from metamorphd.third_party import validate_pb2

from harness.abuse.rpcs import Rpc
from harness.abuse.tenant import OWN_WORDS, Tenant, kind_of, strings_of

ATTEMPTS = 20
NUMBERS = (0, 1, 2, 3, 25)
INTEGERS = frozenset(
    {
        FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64,
    }
)  # fmt: skip
# Values that keep a vault usable: one without models or budget would refuse everything.
MODELS = tuple(model.model for model in load_catalog(None, now=Clock().now()).models)
LARGE_BUDGET = 10**15
# Of secrets: both tenants have the same.
SECRETS = ("first", "second", "third")
JSON_OBJECTS = ("input_schema", "response_schema")
# The usual choice of each oneof.
USUAL = ("text", "text/plain")
# Paths of an update mask that cannot be set.
UNSETTABLE = ("_id", "_ids", "_time", "_count", "etag", "creator")


# Fields of which a request may have one at most, by its message; an empty name stands for none.
EXCLUSIVE = {
    "GetUsageRequest": ("session_id", "user_id", "label", "group_by"),
    "ExportVaultRequest": ("export_id", "offset", "secrets_recipient", ""),
}


class Requests:
    """Makes requests of `own`, with ids, page tokens, etags and names of `other` too.

    `borrowed` is what the newest request holds of the other tenant; the answer may repeat it.
    """

    def __init__(self, own: Tenant, other: Tenant, *, validator: protovalidate.Validator, seed: int) -> None:
        self._own = own
        self._other = other
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._validator = validator
        self.borrowed: list[str] = []

    def make(self, rpc: Rpc) -> list[Message]:
        """Makes one request, or several for a client stream. Most satisfy the rules of their proto."""
        self.borrowed = []
        if not rpc.client_streaming:
            return [self._make(rpc)]
        # Required fields first, then more and more.
        in_order = self._random.random() < 0.9
        return [self._make(rpc, place if in_order else None) for place in range(self._random.randint(1, 3))]

    def _make(self, rpc: Rpc, place: int | None = None) -> Message:
        if self._random.random() < 0.15:
            # Reads also repeat the other tenant's requests, with its filters and page tokens.
            theirs = rpc.reads and self._random.random() < 0.5
            known = (self._other if theirs else self._own).sent[rpc.path]
            if known:
                return self._repeat(self._random.choice(known))
        for _ in range(ATTEMPTS):
            request = rpc.request_type()
            record = self._record({kind_of(name) for name in _names(request)})
            self._fill(request, record, reads=rpc.reads, place=place)
            if not self._validator.collect_violations(request) or self._random.random() < 0.02:
                break
        return request

    def _repeat(self, request: Message) -> Message:
        self.borrowed.extend(strings_of(request))
        return request

    def _record(self, kinds: set[str]) -> dict[str, str]:
        """Chooses ids that belong together, mostly the caller's own, and preferably of these kinds."""
        tenant = self._other if self._random.random() < 0.15 else self._own
        met = [self._random.choice(tenant.records) for _ in range(8)] if tenant.records else [{}]
        return max(met, key=lambda record: len(kinds & record.keys()))

    def _fill(self, message: Message, record: dict[str, str], *, reads: bool, place: int | None = None) -> None:
        left_out, masks = self._not_chosen(message, place), []
        fields: Any = message.DESCRIPTOR.fields
        for descriptor in fields:
            if descriptor.name in left_out or self._random.random() > _share(descriptor):
                continue
            if (
                descriptor.message_type is not None
                and descriptor.message_type.full_name == FieldMask.DESCRIPTOR.full_name
            ):
                masks.append(descriptor)
            else:
                self._set(message, descriptor, record, reads=reads)
        for descriptor in masks:
            getattr(message, descriptor.name).paths.extend(self._paths(message))

    def _not_chosen(self, message: Message, place: int | None) -> set[str]:
        """Returns all fields of every oneof but one: in a stream the one for this place, otherwise any."""
        choices = [[inner.name for inner in oneof.fields] for oneof in message.DESCRIPTOR.oneofs]
        choices += [list(EXCLUSIVE.get(message.DESCRIPTOR.name, ()))]
        return {
            name
            for names in filter(None, choices)
            for name in set(names) - {self._chosen(names) if place is None else names[: place + 1][-1]}
        }

    def _chosen(self, names: list[str]) -> str:
        usual = [name for name in names if name in USUAL and self._random.random() < 0.7]
        return self._random.choice(usual or names)

    def _set(self, message: Message, descriptor: FieldDescriptor, record: dict[str, str], *, reads: bool) -> None:
        inner = descriptor.message_type
        if inner is not None and inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                name = f"{descriptor.name}.key"
                getattr(message, descriptor.name)[self._text(name, reads=reads)] = self._text(
                    descriptor.name, reads=reads
                )
        elif inner is not None and inner.full_name == "google.protobuf.Timestamp":
            getattr(message, descriptor.name).FromSeconds(int(time.time()) - self._random.choice(NUMBERS))
        elif inner is not None:
            place = getattr(message, descriptor.name)
            target = place.add() if descriptor.is_repeated else place
            target.SetInParent()
            self._fill(target, record, reads=reads)
        elif descriptor.is_repeated:
            getattr(message, descriptor.name).append(self._scalar(descriptor, record, reads=reads))
        else:
            setattr(message, descriptor.name, self._scalar(descriptor, record, reads=reads))

    def _scalar(self, descriptor: FieldDescriptor, record: dict[str, str], *, reads: bool) -> Any:
        if descriptor.type == FieldDescriptor.TYPE_STRING:
            return self._string(descriptor, record, reads=reads)
        if descriptor.type == FieldDescriptor.TYPE_BYTES:
            return self._text(descriptor.name, reads=reads).encode()
        if descriptor.type == FieldDescriptor.TYPE_BOOL:
            return self._random.random() < 0.5
        if descriptor.enum_type is not None:
            return self._random.choice(descriptor.enum_type.values).number
        return (
            LARGE_BUDGET
            if descriptor.full_name.startswith(Budget.DESCRIPTOR.full_name)
            else self._random.choice(NUMBERS)
        )

    def _string(self, descriptor: FieldDescriptor, record: dict[str, str], *, reads: bool) -> str:
        rules = descriptor.GetOptions().Extensions[validate_pb2.field].string
        # `in` is a keyword in Python.
        listed: list[str] = list(getattr(rules, "in"))
        if listed:
            return self._chosen(listed)
        if rules.uuid:
            return self._earlier(descriptor.name, share=0.3) or self._new_request_id(descriptor.name)
        if descriptor.name == "name" and descriptor.full_name.startswith("metamorph.vault.v1."):
            return self._random.choice(SECRETS)
        return self._word(descriptor.name, record, reads=reads)

    def _word(self, name: str, record: dict[str, str], *, reads: bool) -> str:
        kind, theirs = kind_of(name), self._random.random() < 0.3
        if name in ("page_token", "etag"):
            return self._earlier(name, share=0.4)
        if kind == "vault":
            return self._borrow(self._other.vault) if theirs else self._own.vault
        if kind == "user" or name == "creator":
            # A write stores it, as the user of a budget.
            users = self._other.users if theirs and reads else self._own.users
            return self._borrow(self._random.choice(users))
        if kind and kind not in OWN_WORDS:
            return self._identity(kind, record)
        return self._useful(name) or self._text(name, reads=reads)

    def _useful(self, name: str) -> str | None:
        """Returns the value of a field that takes no free text."""
        if name in ("model", "default_model"):
            return self._random.choice(MODELS)
        if name in JSON_OBJECTS:
            return json.dumps({"title": self._own.text(name)})
        return str(datetime.now(UTC).date()) if name.endswith("_day") else None

    def _identity(self, kind: str, record: dict[str, str]) -> str:
        """Mostly the record's id, otherwise any of that kind, otherwise one that never existed."""
        chance = self._random.random()
        if kind in record and chance < 0.75:
            return self._borrow(record[kind])
        theirs = self._other.ids[kind] if chance > 0.9 else self._own.ids[kind]
        if theirs and chance > 0.05:
            return self._borrow(self._random.choice(theirs))
        prefix = self._own.ids[kind][-1].partition("_")[0] if self._own.ids[kind] else kind
        return f"{prefix}_{self._random.getrandbits(128):032x}"

    def _text(self, name: str, *, reads: bool) -> str:
        """New text for writes; reads mostly ask for text that exists, the other tenant's too."""
        if not reads:
            return self._own.text(name)
        tenant = self._other if self._random.random() < 0.3 else self._own
        # A search looks for the text of another field.
        known = tenant.texts[name] or tenant.texts[self._random.choice([*tenant.texts])]
        return self._borrow(self._random.choice(known)) if known and self._random.random() < 0.8 else "nothing"

    def _earlier(self, name: str, *, share: float) -> str:
        """A value that a field of this name had before, of either tenant; otherwise empty."""
        chance = self._random.random()
        tenant = self._other if chance < share / 3 else self._own
        known = tenant.texts[name]
        return self._borrow(self._random.choice(known)) if known and chance < share else ""

    def _new_request_id(self, name: str) -> str:
        made = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        self._own.texts[name].append(made)
        return made

    def _borrow(self, text: str) -> str:
        self.borrowed.append(text)
        return text

    def _paths(self, message: Message) -> list[str]:
        """Some of the fields that are set in the message beside the mask."""
        names = [
            inner.name
            for descriptor, value in message.ListFields()
            if isinstance(value, Message)
            for inner in value.DESCRIPTOR.fields
            if not inner.name.endswith(UNSETTABLE)
        ]
        return self._random.sample(names, min(len(names), self._random.randint(1, 2)))


def _names(message: Message) -> list[str]:
    return [descriptor.name for descriptor in message.DESCRIPTOR.fields]


def _share(descriptor: FieldDescriptor) -> float:
    """How often a field is set: always if it is required, mostly if it identifies the request's subject."""
    rules, oneof = descriptor.GetOptions().Extensions[validate_pb2.field], descriptor.containing_oneof
    # The compiler makes a oneof for each optional field, with this prefix.
    chosen = oneof is not None and not oneof.name.startswith("_")
    text = rules.string.min_len or (rules.string.pattern and not rules.ignore)
    if chosen or rules.required or text or rules.bytes.min_len or rules.repeated.min_items:
        return 1.0
    names_something = kind_of(descriptor.name) not in OWN_WORDS | {""} and oneof is None
    return 0.9 if names_something else 0.5
