"""Heads with their time stamps in a file, and what somebody who can write it may do to them."""

import base64
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from metamorphd.audit.timestamps import TimestampRequest, TrustedCertificates
from metamorphd.chain import Head, HeadsDigest
from metamorphd.cli.anchors import Stamped, read_anchors

from tests.support.fakes.timestamp_authority import TimestampAuthority

# In each time stamp, and in each line of heads.
STAMPS, LINES, HEADS = 2, 3, 4
BACKUP_HEADS = 5
HEADS_KEY, DIGESTS_KEY, STAMP_KEY = "heads", "digests", "stamp"

Line = dict[str, Any]


@dataclass
class Kept:
    """The lines of a file, what another authority stamped of the same digests, and a source of randomness."""

    lines: list[Line]
    foreign: dict[str, str]
    randomness: random.Random

    def any(self, key: str) -> Line:
        """Returns a random line with a key."""
        return self.randomness.choice([line for line in self.lines if key in line])


def digest_of(lines: list[Line]) -> str:
    """Returns the digest of the heads in lines."""
    digest = HeadsDigest()
    for line in lines:
        for vault, revision, mac in line[HEADS_KEY]:
            digest.add(vault, Head(revision, bytes.fromhex(mac)))
    return digest.digest.hex()


def edited(kept: Kept) -> None:
    """Changes a head."""
    head = kept.randomness.choice(kept.any(HEADS_KEY)[HEADS_KEY])
    _change(head, kept.randomness)


def left_out(kept: Kept) -> None:
    """Removes a head, or a line of them."""
    line = kept.any(HEADS_KEY)
    if len(line[HEADS_KEY]) == 1 or kept.randomness.random() < 0.5:
        kept.lines.remove(line)
    else:
        del line[HEADS_KEY][kept.randomness.randrange(len(line[HEADS_KEY]))]


def added(kept: Kept) -> None:
    """Adds a head to a line that was stamped."""
    line = kept.any(HEADS_KEY)
    line[HEADS_KEY].insert(kept.randomness.randint(0, len(line[HEADS_KEY])), ["forged", 9, "f" * 64])


def restated(kept: Kept) -> None:
    """Changes a head, and says that the token is of what it is now."""
    stamp = kept.any(STAMP_KEY)
    if "backup" in stamp:
        run = [line for line in kept.lines if line.get("backup") == stamp["backup"] and HEADS_KEY in line]
        _change(kept.randomness.choice(run)[HEADS_KEY][0], kept.randomness)
        stamp["log_heads"] = digest_of(run)
        stamp[DIGESTS_KEY] = [stamp["log_heads"]]
        return
    by_digest = {digest_of([line]): line for line in kept.lines if HEADS_KEY in line}
    place = kept.randomness.randrange(len(stamp[DIGESTS_KEY]))
    line = by_digest[stamp[DIGESTS_KEY][place]]
    _change(kept.randomness.choice(line[HEADS_KEY]), kept.randomness)
    stamp[DIGESTS_KEY][place] = digest_of([line])


def moved(kept: Kept) -> None:
    """Puts a token in the place of another."""
    one, other = kept.randomness.sample([line for line in kept.lines if STAMP_KEY in line], 2)
    one[STAMP_KEY] = other[STAMP_KEY]


def retimed(kept: Kept) -> None:
    """Changes the time that a token says."""
    stamp = kept.any(STAMP_KEY)
    token = bytearray(base64.b64decode(stamp[STAMP_KEY]))
    # The first GeneralizedTime of 15 characters: the year's last digits.
    place = token.index(b"\x18\x0f20") + 4 + kept.randomness.randrange(2)
    token[place] = (token[place] - 48 + kept.randomness.randint(1, 9)) % 10 + 48
    stamp[STAMP_KEY] = base64.b64encode(token).decode()


def reimprinted(kept: Kept) -> None:
    """Changes a head, its digest, and the hash in the token."""
    stamp = kept.randomness.choice([line for line in kept.lines if STAMP_KEY in line and "backup" not in line])
    before = _imprint(stamp)
    digests = stamp[DIGESTS_KEY]
    line = next(each for each in kept.lines if HEADS_KEY in each and digest_of([each]) == digests[0])
    _change(line[HEADS_KEY][0], kept.randomness)
    digests[0] = digest_of([line])
    token = base64.b64decode(stamp[STAMP_KEY])
    stamp[STAMP_KEY] = base64.b64encode(token.replace(before, _imprint(stamp))).decode()


def foreign(kept: Kept) -> None:
    """Puts a token by another authority, of the same name, in the place of one."""
    stamp = kept.any(STAMP_KEY)
    stamp[STAMP_KEY] = kept.foreign["".join(stamp[DIGESTS_KEY])]


FORGERIES: dict[str, Callable[[Kept], None]] = {
    forgery.__name__: forgery for forgery in (edited, left_out, added, restated, moved, retimed, reimprinted, foreign)
}


class StampedFile:
    """A file of heads that an authority has stamped, which is written anew for each forgery."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "heads"
        authority, other = TimestampAuthority(directory, "authority"), TimestampAuthority(directory, "other")
        self._trusted = TrustedCertificates(authority.roots)
        self._lines: list[Line] = []
        self._foreign: dict[str, str] = {}
        for number in range(STAMPS):
            lines = [_heads(f"{number}-{line}", HEADS) for line in range(LINES)]
            self._stamp(lines, {DIGESTS_KEY: [digest_of([line]) for line in lines]}, authority, other)
        run = [{"backup": "b.db", **_heads(f"backup-{number}", 1)} for number in range(BACKUP_HEADS)]
        last = {"backup": "b.db", "log_heads": digest_of(run), DIGESTS_KEY: [digest_of(run)]}
        self._stamp(run, last, authority, other)

    def _stamp(self, lines: list[Line], last: Line, authority: TimestampAuthority, other: TimestampAuthority) -> None:
        query = TimestampRequest([bytes.fromhex(digest) for digest in last[DIGESTS_KEY]]).body
        token, strange = (base64.b64encode(each.stamp(query)).decode() for each in (authority, other))
        self._foreign["".join(last[DIGESTS_KEY])] = strange
        self._lines += [*lines, last | {STAMP_KEY: token}]

    def judged(self, lines: list[Line] | None = None) -> list[Stamped]:
        """Returns the judgements of all time stamps, of other lines perhaps. Raises ClickException."""
        self._path.write_text("".join(f"{json.dumps(line)}\n" for line in (self._lines if lines is None else lines)))
        return list(read_anchors(self._path).judged(self._trusted))

    def found(self, forgery: Callable[[Kept], None], randomness: random.Random) -> bool:
        """Returns whether a forgery is found."""
        kept = Kept(json.loads(json.dumps(self._lines)), self._foreign, randomness)
        forgery(kept)
        try:
            return any(stamp.fault for stamp in self.judged(kept.lines))
        except click.ClickException:
            return True


def _heads(name: str, count: int) -> Line:
    heads = [[f"{name}-{number}", 10 + number, hashlib.sha256(name.encode()).hexdigest()] for number in range(count)]
    return {HEADS_KEY: heads}


def _change(head: list[Any], randomness: random.Random) -> None:
    place = randomness.randrange(3)
    changed = (f"{head[0]}x", head[1] + randomness.choice((-1, 1)), hashlib.sha256(head[2].encode()).hexdigest())
    head[place] = changed[place]


def _imprint(stamp: Line) -> bytes:
    digests = b"".join(map(bytes.fromhex, stamp[DIGESTS_KEY]))
    return hashlib.sha256(b"metamorph audit heads 1" + digests).digest()
