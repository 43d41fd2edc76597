"""Findings about a server seen from outside: clocks, backups, certificates, addresses, versions."""

import ipaddress
from collections.abc import Iterator, Sequence

from metamorphd.models.counted import counted
from metamorphd.models.finding import Finding, failed, ok, warning

# What a server allows issuers' clocks to differ, and what is worth knowing before.
LEEWAY_SECONDS = 30
NOTABLE_SECONDS = 5
HOUR, DAY = 3600, 86_400
VERIFIED_DAYS = 7
EXPIRY_DAYS = 21
# A backup takes a while, and is made again after a failure.
LATE = 2


def clocks(ahead: float) -> Finding:
    """Judges by how many seconds the server's clock is ahead of this machine's."""
    shown = f"the server's clock is {abs(ahead):,.0f} seconds {'ahead of' if ahead > 0 else 'behind'} this machine's"
    mend = "set both by NTP (`timedatectl`, `chronyc tracking`); tokens must be signed by a correct clock"
    if abs(ahead) > LEEWAY_SECONDS:
        return failed("clock", f"{shown}, and more than {LEEWAY_SECONDS} make tokens invalid or expired", mend)
    if abs(ahead) > NOTABLE_SECONDS:
        return warning("clock", shown, mend)
    return ok("clock", "the server's clock and this machine's agree")


def backups(
    *, newest: float | None, verified: float | None, fault: str, interval_hours: float, uptime: float, now: float
) -> Iterator[Finding]:
    """Judges when the newest good backup was made, and when one was last verified, in seconds since the epoch.

    `fault` is what is wrong with the newest of all, or empty; `uptime` is the server's, in seconds.
    """
    make = "make one: `metamorph backup create`"
    if fault:
        yield failed("backup", f"the newest backup is not good: {fault}", make)
    allowed = (interval_hours or 24) * LATE * HOUR
    if newest is None:
        first = interval_hours > 0 and uptime < HOUR and not fault
        yield (
            ok("backup", "there is no backup yet; the server makes the first one soon after its start")
            if first
            else failed("backup", "there is no good backup", make)
        )
        return
    age = counted(_hours(now - newest), "hour")
    if now - newest > allowed:
        yield failed("backup", f"the newest good backup is {age} old", f"{make}, and see why none is made")
    else:
        yield ok("backup", f"the newest good backup is {age} old")
    if verified is None or now - verified > VERIFIED_DAYS * DAY:
        yield warning(
            "backup-verified",
            f"no backup was verified within {VERIFIED_DAYS} days",
            "run `metamorph backup verify`, and restore one elsewhere: `metamorph backup restore NAME --to FILE`",
        )
    else:
        yield ok("backup-verified", f"a backup was verified {counted(_hours(now - verified), 'hour')} ago")


def _hours(seconds: float) -> int:
    return round(max(0.0, seconds) / HOUR)


def certificate(seconds_left: float) -> Finding:
    """Judges for how long a certificate that is trusted is still valid."""
    days = int(seconds_left // DAY)
    if days < EXPIRY_DAYS:
        mend = "renew it; the server reads new files itself"
        return warning("tls", f"the certificate expires in {counted(days, 'day')}", mend)
    return ok("tls", f"TLS, with a certificate that is trusted and valid for {counted(days, 'day')}")


def plaintext(name: str, what: str, addresses: Sequence[str], mend: str) -> Finding:
    """Judges that something is not encrypted, by the IP addresses at which it is reached."""
    if all(private(address) for address in addresses):
        return ok(name, f"{what} without TLS, at an address that only this machine or a private network reaches")
    return failed(name, f"{what} without TLS, at a public address", mend)


def private(address: str) -> bool:
    """Returns whether an IP address is loopback or that of a private network."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_private or parsed.is_loopback or parsed.is_link_local


def versions(*, server: str, schema: int, own: str, own_schema: int) -> Finding:
    """Compares the versions of the server and of its schema with this program's."""
    shown = f"the server is version {server} with schema {schema}"
    if (server, schema) != (own, own_schema):
        return warning(
            "version",
            f"{shown}, and this program is {own} with schema {own_schema}",
            "deploy this one, or use that",
        )
    return ok("version", shown)
