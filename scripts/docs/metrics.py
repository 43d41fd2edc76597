"""docs/metrics.md."""

from pathlib import Path

from metamorphd.server import Server
from metamorphd.settings.server import Settings
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from scripts.docs.markdown import NOTICE, table

METRICS_INTRO = """\
# Metrics

`/metrics` has these, in Prometheus's text format. [monitoring.md](monitoring.md) says how to read them. Labels have few
values, none of which is an ID or comes from a caller.
"""
SUFFIXES = {"counter": "_total"}
# Those of the process, as every Prometheus client has them.
FOREIGN = "process_"


def registry() -> CollectorRegistry:
    """The metrics of a server that has not started, with all that a setting adds."""
    given = Settings(
        emblem_dev_mode=True,
        listen_address="127.0.0.1",
        database_path=Path("metamorph.db"),
        backup_s3_url="s3://bucket/prefix",
        aws_access_key_id="id",
        aws_secret_access_key=SecretStr("key"),
        otel_exporter_otlp_endpoint="http://localhost:4318",
    )
    return Server(given).registry


def metrics_page() -> str:
    """docs/metrics.md."""
    families = sorted(registry().collect(), key=lambda family: (family.name.startswith(FOREIGN), family.name))
    rows = (
        (
            f"`{family.name}{SUFFIXES.get(family.type, '')}`",
            str(family.type),
            ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ())),
            family.documentation.removesuffix("."),
        )
        for family in families
    )
    return f"{NOTICE}{METRICS_INTRO}\n{table(('Metric', 'Type', 'Labels', 'Meaning'), rows)}"
