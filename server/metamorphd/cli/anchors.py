"""Heads of logs that are kept elsewhere, and their time stamps, as files have them."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metamorphd.chain import Head, HeadsDigest
from metamorphd.models.caller import SERVER_LOG

if TYPE_CHECKING:
    from metamorphd.audit.timestamps import TrustedCertificates

NAMES = ('"heads"', '"stamp"', '"log_heads"')

# A vault's ID as the API has it, a revision, and its MAC in hexadecimal digits, as in ListAuditEvents.
Anchor = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token over digests of heads, and the number of its line."""

    line: int
    digests: Sequence[bytes]
    token: bytes


@dataclass(frozen=True, slots=True)
class Stamped:
    """The judgement of a time stamp: when it was made, None if it is not good, what is wrong, and its heads."""

    line: int
    time: datetime | None
    fault: str
    heads: Sequence[Anchor]


@dataclass(slots=True)
class Anchors:
    """The content of a file: heads, without repetitions, time stamps, and the heads that each digest is of."""

    path: Path
    heads: dict[Anchor, None] = field(default_factory=dict)
    stamps: list[Stamp] = field(default_factory=list)
    digests: dict[bytes, list[Anchor]] = field(default_factory=dict)

    def judged(self, trusted: "TrustedCertificates") -> Iterator[Stamped]:
        """Yields a judgement of each time stamp."""
        from metamorphd.audit.timestamps import TimestampInvalid

        for stamp in self.stamps:
            present = [self.digests[digest] for digest in stamp.digests if digest in self.digests]
            gone, fault, time = len(stamp.digests) - len(present), "", None
            try:
                time = trusted.verified(stamp.token, stamp.digests)
            except TimestampInvalid as exc:
                fault = f"the time stamp is not good: {exc}"
            if time is not None and gone:
                fault = f"heads that were stamped on {time:%Y-%m-%d %H:%M:%S} UTC are missing, or were changed"
            yield Stamped(stamp.line, time, fault, [head for heads in present for head in heads] if time else [])


class _Run:
    """The heads of a backup, one in each line."""

    def __init__(self) -> None:
        self.digest = HeadsDigest()
        self.heads: list[Anchor] = []

    def add(self, head: Anchor) -> None:
        vault, revision, mac = head
        self.digest.add(vault or SERVER_LOG, Head(revision, bytes.fromhex(mac)))
        # Without a MAC, it proves nothing.
        if mac:
            self.heads.append(head)


def read_anchors(path: Path) -> Anchors:
    """Returns the heads and time stamps in the lines of a file, whatever else there is in it.

    Lines are JSON, with `heads`: a list of vault, revision and MAC. Those of a backup also have its name, and a last
    line with the digest. Raises ClickException if a line cannot be read, or if there are no heads.
    """
    found, backups = Anchors(path), dict[str, _Run]()
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            # What another program writes around it stays.
            text = line[line.find("{") :].strip()
            if not any(name in text for name in NAMES):
                continue
            try:
                _read(found, backups, number, json.loads(text))
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise click.ClickException(f"line {number} of {path} has heads that cannot be read") from exc
    if not found.heads:
        raise click.ClickException(f"{path} has no heads; they are in the log lines `audit heads`")
    return found


def _read(found: Anchors, backups: dict[str, _Run], number: int, line: dict[str, Any]) -> None:
    heads = [_anchor(*head) for head in line.get("heads", ())]
    name = line.get("backup")
    run = _Run() if name is None else backups.setdefault(str(name), _Run())
    for head in heads:
        run.add(head)
    found.heads |= {head: None for head in heads if head[2]}
    if heads and name is None:
        found.digests[run.digest.digest] = run.heads
    if "log_heads" in line:
        # By which a backup's heads are counted as stamped, if they are all there.
        found.digests[run.digest.digest] = run.heads
        backups.pop(str(name), None)
    if line.get("stamp"):
        digests = line["digests"] if "digests" in line else [line["log_heads"]]
        token = base64.b64decode(line["stamp"], validate=True)
        found.stamps.append(Stamp(number, [bytes.fromhex(digest) for digest in digests], token))


def _anchor(vault: str, revision: int, mac: str) -> Anchor:
    vault, mac = str(vault), str(mac)
    if bytes.fromhex(mac).hex() != mac or len(mac) not in (0, 64):
        raise ValueError("no MAC")
    return api_vault(vault), int(revision), mac


def api_vault(vault_id: str) -> str:
    """Returns a vault's ID as the API has it."""
    return "" if vault_id == SERVER_LOG else vault_id
