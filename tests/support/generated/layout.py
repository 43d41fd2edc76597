"""What a generated file holds: its vaults, their sessions, and the ids of all of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

LARGE_VAULT, DEEP_VAULT = "large", "deep"
DEEP_MESSAGES = 20_000
# Sessions of that size which are there to be deleted. A full file is measured in place, and has some for later runs.
ERASABLE, ERASABLE_IF_FULL = 3, 12
# Of sessions, in this order again and again: most are short, most messages are in long ones.
SIZES = (2, 4, 10, 30, 4, 80, 2, 200, 6, 400)
MICROSECONDS = 1_000_000
# 2026-01-01, the time of a vault's first message; each is a second after the one before.
BEGINNING = 1_767_225_600 * MICROSECONDS
USERS = ("ada", "grace", "edsger")


@dataclass(frozen=True)
class SessionPlan:
    """A session: its number in its vault, the number of its first message there, and how many it has, an even one."""

    vault: "VaultPlan"
    number: int
    first: int
    size: int

    @cached_property
    def session_id(self) -> str:
        return identity("ses", self.first, self.vault.number, self.number)

    @property
    def creator(self) -> str:
        return USERS[self.number % len(USERS)]

    @property
    def archived(self) -> bool:
        return self.number % 7 == 6

    def message_id(self, place: int) -> str:
        """Returns the id of its message at a place, from 0."""
        return f"msg{self._identities[place]}"

    def turn_id(self, place: int) -> str:
        """Returns the id of its turn whose user's message is at a place."""
        return f"turn{self._identities[place]}"

    @cached_property
    def _identities(self) -> list[str]:
        return [identity("", self.first + place, self.vault.number, place) for place in range(self.size)]


@dataclass(frozen=True)
class VaultPlan:
    """A vault: how many messages its ordinary sessions have, and how many sessions of 20,000 it has beside."""

    vault_id: str
    number: int
    ordinary: int
    deep: int = 0
    deep_messages: int = DEEP_MESSAGES

    @property
    def messages(self) -> int:
        return self.ordinary + self.deep * self.deep_messages

    @property
    def rare_every(self) -> int:
        """Every so many messages the rare word is in one: six of the vault at most."""
        return max(2, self.messages // 5)

    def sessions(self) -> Iterator[SessionPlan]:
        """Yields its sessions, oldest first; those of 20,000 messages are the first ones."""
        first, number = 0, 0
        while first < self.messages:
            size = self.deep_messages if number < self.deep else SIZES[(number - self.deep) % len(SIZES)]
            size = min(size, self.messages - first)
            yield SessionPlan(self, number, first, size)
            first, number = first + size, number + 1


@dataclass(frozen=True)
class Layout:
    """`messages` over `vaults`, of which one holds a quarter; and sessions of 20,000, within that quarter if they fit.

    Otherwise they are a vault of their own, beside what `messages` counts. All but one of them are to be deleted.
    """

    messages: int
    vaults: int
    erasable: int = ERASABLE
    deep_messages: int = DEEP_MESSAGES

    @property
    def deep(self) -> VaultPlan:
        """The vault with the sessions of 20,000."""
        return next(vault for vault in self.plans() if vault.deep)

    @property
    def large(self) -> VaultPlan:
        """The vault that holds a quarter."""
        return next(vault for vault in self.plans() if vault.vault_id == LARGE_VAULT)

    @property
    def total(self) -> int:
        """All messages of the file."""
        return sum(vault.messages for vault in self.plans())

    def plans(self) -> list[VaultPlan]:
        """Returns its vaults in the order of their ids, in which they are stored fastest."""
        quarter = _even(self.messages / 4)
        sessions = 1 + self.erasable
        left = quarter - sessions * self.deep_messages
        if left >= 0:
            plans = [VaultPlan(LARGE_VAULT, 1, left, sessions, self.deep_messages)]
        else:
            plans = [
                VaultPlan(DEEP_VAULT, 0, 0, sessions, self.deep_messages),
                VaultPlan(LARGE_VAULT, 1, quarter),
            ]
        each = _even((self.messages - quarter) / (self.vaults - 1))
        return plans + [VaultPlan(f"v{number:06}", number, each) for number in range(2, self.vaults + 1)]


def time_of(number: int) -> int:
    """Returns the time of a vault's message, in microseconds."""
    return BEGINNING + number * MICROSECONDS


def identity(prefix: str, number: int, vault: int, place: int) -> str:
    """Returns an id as the server's clock makes them, a UUIDv7, with numbers in place of random bits."""
    return f"{prefix}_{time_of(number) // 1000:012x}7{vault & 0xFFF:03x}8{place:015x}"


def _even(number: float) -> int:
    return int(number) // 2 * 2
