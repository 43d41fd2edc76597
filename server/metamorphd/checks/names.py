"""Names of variables: those that are no setting, and the setting that is probably meant."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator

from metamorphd.models.finding import Finding, failed, ok, warning

# Of the deployment guide, for what this server does not do.
UNUSED = frozenset(
    {
        "NOESIS_REMOTE_URL",
        "VERCEL_CLIENT_ID",
        "VERCEL_CLIENT_SECRET",
        "VERCEL_OIDC_TOKEN",
    }
)
# What platforms, proxies and libraries read.
FOREIGN = re.compile(
    r"RAILWAY_.*|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|TZ|LANG|LC_.*|PATH|HOME|HOSTNAME|PYTHON.*|MALLOC_.*"
    r"|GLIBC_TUNABLES|GRPC_(VERBOSITY|TRACE|DNS_RESOLVER)|ANTHROPIC_(AUTH_TOKEN|LOG|PROFILE|CONFIG_DIR)|(NPM|UV|PIP)_.*"
    r"|OTEL_(RESOURCE_ATTRIBUTES|SDK_DISABLED)"
)
# As difflib measures it: two letters exchanged or one left out in a name of twelve, not REPORT for PORT.
SIMILARITY = 0.86
LONGEST_NAME = 64
# By which a misspelt name is longer or shorter.
MOST_LETTERS = 3
MOST_FOUND = 100


def unknown_names(names: Iterable[str], *, known: Collection[str], whole: bool) -> Iterator[Finding]:
    """Yields a finding for each name that has no effect.

    With `whole`, the names are all meant for this server, as in its `.env`. Otherwise only those count that look like a
    setting's, because an environment has the variables of every program.
    """
    unknown = 0
    for name in sorted({name.upper() for name in names} - set(known)):
        if unknown == MOST_FOUND:
            yield warning("names", f"more than {MOST_FOUND} names are no setting", "correct these first")
            return
        meant = _meant(name, known) if not FOREIGN.fullmatch(name) else None
        if name in UNUSED:
            yield ok("names", f"{name} has no effect: this server does not do what it is for")
        elif meant is not None:
            unknown += 1
            yield failed("names", f"{shown(name)} is no setting, so it has no effect", f"rename it to {meant}")
        elif whole and not FOREIGN.fullmatch(name):
            unknown += 1
            yield warning(
                "names",
                f"{shown(name)} is no setting, so it has no effect",
                "remove it; docs/settings.md lists the settings",
            )
    if not unknown:
        yield ok("names", "every name that looks like a setting is one")


def shown(text: str) -> str:
    """Returns a text from outside as one short printable word."""
    return ascii(text[:LONGEST_NAME])[1:-1] + ("…" if len(text) > LONGEST_NAME else "")


def _meant(name: str, known: Collection[str]) -> str | None:
    if len(name) > LONGEST_NAME:
        return None
    # Comparing is slow, and an environment may have thousands of names.
    similar = [each for each in sorted(known) if abs(len(each) - len(name)) <= MOST_LETTERS]
    return next(iter(difflib.get_close_matches(name, similar, n=1, cutoff=SIMILARITY)), None)
