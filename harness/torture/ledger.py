"""Compares the events of turns that clients saw with the later responses of servers."""

import asyncio
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from metamorph_client.chat.v1.turn_pb2 import TurnEvent

from harness.figure import Figure, tried
from harness.torture.zygote import Life
from tests.support.caller import text_of

LOST = "acknowledged messages lost"
UNREPLAYABLE = "replays that differ from what was seen"
REPEATED = "turns beyond one per request_id"
ENDLESS = "turns without a gapless sequence and exactly one end"
GARBLED = "stored replies that are not what was streamed"
GIVEN_UP = "calls that the client did not carry through"
LONG_SECONDS = 2.0
DIED = "servers that ended by themselves"
FAULTS = (LOST, UNREPLAYABLE, REPEATED, ENDLESS, GARBLED, GIVEN_UP, DIED)


@dataclass
class SentTurn:
    """A turn as its sender saw it; `text` is both its message and its request_id."""

    text: str
    session_id: str
    turn_id: str = ""
    user_message_id: str = ""
    reply_message_id: str = ""
    status: int = 0
    events: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def saw(self, event: TurnEvent) -> None:
        """Records the next event."""
        self.events.append(event.SerializeToString(deterministic=True))
        if event.HasField("turn_started"):
            self.turn_id, self.user_message_id = event.turn_id, event.turn_started.user_message_id
        if event.HasField("turn_finished"):
            self.status = event.turn_finished.status
            self.reply_message_id = event.turn_finished.message.message_id


@dataclass
class Ledger:
    """Every turn that was seen, and every fault: (kind, where)."""

    turns: list[SentTurn] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    replays: int = 0

    def fault(self, kind: str, where: str) -> None:
        """Records a fault and prints it."""
        self.faults.append((kind, where))
        sys.stderr.write(f"{kind}: {where}\n")

    def replayed(self, turn: SentTurn, after: int, events: Sequence[TurnEvent]) -> None:
        """Compares a replay with what was seen."""
        self.replays += 1
        brought = [event.SerializeToString(deterministic=True) for event in events]
        if brought != turn.events[after:]:
            self.fault(UNREPLAYABLE, f"{turn.turn_id} after {after}: {len(brought)} of {len(turn.events) - after}")

    def ended(self, turn: SentTurn) -> None:
        """Checks the sequence, the end and the text of a turn whose end was seen."""
        events = [TurnEvent.FromString(event) for event in turn.events]
        ends = [event.sequence for event in events if event.HasField("turn_finished")]
        if [event.sequence for event in events] != list(range(1, len(events) + 1)) or ends != [len(events)]:
            self.fault(ENDLESS, f"{turn.turn_id}: {[event.sequence for event in events]}, ends {ends}")
            return
        streamed = "".join(event.text_delta.text for event in events)
        if streamed != text_of(events[-1].turn_finished.message):
            self.fault(GARBLED, turn.turn_id)

    def figures(self) -> list[Figure]:
        """Counts of what was seen, and of each kind of fault, which must be 0."""
        counts = Counter(kind for kind, _ in self.faults)
        return [
            tried("turns", len(self.turns)),
            tried("events seen", sum(len(turn.events) for turn in self.turns)),
            tried("replays compared", self.replays),
            Figure("retries by the client", self.retries.total()),
            *(Figure(kind, counts[kind], "", "=", 0) for kind in FAULTS),
        ]


def longest_running(lives: Sequence[Life], spans: Sequence[tuple[float, float]]) -> float:
    """The longest time for which a server left an earlier one's turn running; spans are (create, finish) times."""
    begins = [life.began for life in lives]
    longest = 0.0
    for created, finished in spans:
        for life in lives[bisect_right(begins, created) : bisect_right(begins, finished)]:
            seconds = min(finished, life.ended_at or finished) - life.began
            if seconds > LONG_SECONDS:
                sys.stderr.write(f"a turn ran on for {seconds:.3f} s of {life}\n")
            longest = max(longest, seconds)
    return longest
