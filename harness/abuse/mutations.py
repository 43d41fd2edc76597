"""Endless mutations of tokens; a seed repeats them."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from harness.abuse.jose import AUDIENCE, ISSUER, SECRET, Keys, decoded, encoded, token

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SIGNS = LETTERS + "=+/.~ ,;:%\n\0\té\u200b"
NAMES = ("alg", "kid", "typ", "crit", "jku", "jwk", "vault_id", "vaultId", "sub", "exp", "nbf", "iat", "iss", "aud")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e300, 2**63, "", "none", "HS256", "HS512", "RS256", "ES256", "r1", "e1", "JWT", "JWE",
    "evil", "admin", ISSUER, AUDIENCE, [], ["admin"], {}, {"a": []}, "\ud800", "a\0", "9" * 300, int(time.time()) + 60,
)  # fmt: skip
# Most mutations change what was signed; these are validly signed, but not acceptable here.
MISDIRECTED_SHARE = 0.02


class Mutations:
    """Iterates over tokens that must be refused; none of them equals a valid one."""

    def __init__(self, valid: list[str], keys: Keys, *, seed: int) -> None:
        self._valid = valid
        self._known = frozenset(valid)
        self._parts = [made.split(".") for made in valid]
        self._keys = keys
        self._random = random.Random(seed)  # noqa: S311, repeatable
        self._serial = itertools.count(seed * 10**9)
        self._kinds: list[Callable[[str], str]] = [
            self._flip, self._drop, self._add, self._swap, self._move, self._repeat, self._cut, self._graft, self._mix,
            self._respell, self._capitals, self._edit_header, self._edit_claims, self._flip_byte,
        ]  # fmt: skip

    def __iter__(self) -> Iterator[str]:
        while True:
            if self._random.random() < MISDIRECTED_SHARE:
                yield self._misdirected()
                continue
            mutant = self._random.choice(self._valid)
            # Mostly one change: the closer to a valid token, the further it gets.
            for _ in range(self._random.choice((1, 1, 1, 2, 3))):
                mutant = self._random.choice(self._kinds)(mutant)
            if mutant not in self._known:
                yield mutant

    def _place(self, text: str) -> int:
        return self._random.randrange(len(text)) if text else 0

    def _flip(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + self._random.choice(LETTERS) + text[place + 1 :]

    def _drop(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + text[place + self._random.choice((1, 1, 2, 4, 16)) :]

    def _add(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + self._random.choice(SIGNS) + text[place:]

    def _swap(self, text: str) -> str:
        one, other = sorted((self._place(text), self._place(text)))
        return text[:one] + text[other : other + 1] + text[one + 1 : other] + text[one : one + 1] + text[other + 1 :]

    def _move(self, text: str) -> str:
        place, length = self._place(text), self._random.randrange(1, 33)
        taken, rest = text[place : place + length], text[:place] + text[place + length :]
        to = self._place(rest)
        return rest[:to] + taken + rest[to:]

    def _repeat(self, text: str) -> str:
        place, length = self._place(text), self._random.randrange(1, 33)
        return text[: place + length] + text[place:]

    def _cut(self, text: str) -> str:
        return text[: self._place(text)]

    def _graft(self, text: str) -> str:
        """Joins the beginning of one token and the end of another."""
        other = self._random.choice(self._valid)
        return text[: self._place(text)] + other[self._place(other) :]

    def _mix(self, _: str) -> str:
        """Joins header, claims and signature of different tokens."""
        return ".".join(self._random.choice(self._parts)[part] for part in range(3))

    def _respell(self, text: str) -> str:
        parts = text.split(".")
        place = self._random.randrange(len(parts))
        part = parts[place]
        parts[place] = self._random.choice(
            (
                part + "=" * (-len(part) % 4 or 1),
                part.replace("-", "+").replace("_", "/"),
                part[:-1] + LETTERS[LETTERS.find(part[-1:]) ^ 1] if part else "=",
                part + ("A" if len(part) % 4 == 0 else "AA"),
                f" {part}",
            )
        )
        return ".".join(parts)

    def _capitals(self, text: str) -> str:
        place = self._place(text)
        return text[:place] + text[place : place + 1].swapcase() + text[place + 1 :]

    def _edit_header(self, text: str) -> str:
        return self._edit(text, 0)

    def _edit_claims(self, text: str) -> str:
        return self._edit(text, 1)

    def _edit(self, text: str, place: int) -> str:
        """Changes one member of the JSON and keeps the signature."""
        parts = text.split(".")
        try:
            members = json.loads(decoded(parts[place]))
            name = self._random.choice((*members, *NAMES))
        except (ValueError, IndexError, TypeError):
            return self._mix(text)
        if self._random.random() < 0.2:
            members.pop(name, None)
        else:
            members[name] = self._random.choice(VALUES)
        parts[place] = encoded(json.dumps(members).encode())
        return ".".join(parts)

    def _flip_byte(self, text: str) -> str:
        """Changes a byte of the decoded base64."""
        parts = text.split(".")
        place = self._random.randrange(len(parts))
        try:
            data = bytearray(decoded(parts[place]))
        except ValueError:
            return self._flip(text)
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        parts[place] = encoded(bytes(data))
        return ".".join(parts)

    def _misdirected(self) -> str:
        """Validly signed, but for another audience, by another issuer, with another algorithm, or expired."""
        own: dict[str, Any] = {"jti": f"tok_{next(self._serial)}"}
        wrong: dict[str, Any] = self._random.choice(
            ({"aud": "other"}, {"aud": None}, {"aud": []}, {"iss": "https://evil.example"}, {"iss": None}, {"exp": 1})
        )
        match self._random.randrange(8):
            case 0:
                return token({"kid": "e1"}, "ES256", self._keys["e1"], **own, **wrong)
            case 1:
                return token({"kid": "r1"}, self._random.choice(("PS256", "RS384", "RS512")), self._keys["r1"], **own)
            case 2 | 3:
                return token({"kid": self._random.choice("red") + "1"}, self._random.choice(("HS384", "HS512")), **own)
            case _:
                return token(key=SECRET, **own, **wrong)
