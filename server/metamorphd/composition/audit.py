"""Time stamps of the heads of logs, if there is an authority."""

import importlib

from metamorphd.audit.stamping import AuthorityStamping, NoStamping, Stamping
from metamorphd.clock import Clock
from metamorphd.errors import StartupRefused
from metamorphd.settings.server import Settings


def make_stamping(settings: Settings, *, clock: Clock) -> Stamping:
    """Returns what has heads stamped by the authority of the settings, or nothing. Raises StartupRefused."""
    url, path = settings.audit_tsa_url, settings.audit_tsa_certificates
    if url is None or path is None:
        return NoStamping()
    # Imported only when used.
    timestamps = importlib.import_module("metamorphd.audit.timestamps")
    authority = importlib.import_module("metamorphd.audit.authority")
    try:
        trusted = timestamps.TrustedCertificates(path)
    except (OSError, ValueError) as exc:
        raise StartupRefused(
            f"AUDIT_TSA_CERTIFICATES {path} cannot be read as certificates; set it to a PEM file"
        ) from exc
    return AuthorityStamping(
        authority=authority.Authority(url=url, trusted=trusted, clock=clock),
        clock=clock,
        interval_minutes=settings.audit_tsa_interval_minutes,
    )
