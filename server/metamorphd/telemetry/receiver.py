"""How an OTLP receiver is named in the settings."""

import re
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

_HEADER = re.compile(r" *([A-Za-z0-9!#$%&'*+.^_`|~-]+) *= *([\x21-\x7e]*(?: +[\x21-\x7e]+)*) *", re.ASCII)


def otlp_endpoint(value: str | None) -> str | None:
    """Returns the URL of a receiver. Raises ValueError if it is none, or has a password."""
    if value is None:
        return None
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https") or url.query or url.fragment:
        raise ValueError("must be http://host:port or https://host:port, for example http://localhost:4318")
    if "@" in url.netloc:
        raise ValueError("must not have a password; set OTEL_EXPORTER_OTLP_HEADERS")
    return value


def otlp_headers(value: SecretStr | None) -> SecretStr | None:
    """Returns headers as they are given. Raises ValueError if they cannot be read."""
    if value is not None:
        headers_of(value)
    return value


def headers_of(given: SecretStr | None) -> dict[str, str]:
    """Returns headers by name in lower case. Their values are encoded as in a URL. Raises ValueError."""
    headers = {}
    for part in filter(None, (part.strip() for part in given.get_secret_value().split(","))) if given else ():
        match = _HEADER.fullmatch(part)
        text = unquote(match[2], errors="replace") if match else "\n"
        if match is None or not text.isascii() or not text.isprintable():
            # Without what is given, which is a secret.
            raise ValueError("must be name=value, separated by commas, with values encoded as in a URL")
        headers[match[1].lower()] = text
    return headers
