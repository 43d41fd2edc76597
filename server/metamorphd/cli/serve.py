"""`metamorph dev` and `metamorph serve`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from structlog.typing import Processor

    from metamorphd.server import Server
    from metamorphd.settings.server import Settings


def _run(loaded: "Settings", *, announce: Any = None) -> None:
    import uvloop

    from metamorphd import process
    from metamorphd.cli.checking import start_findings

    given = {} if announce is None else {"announce": announce}
    # All that the process and its commands write has what callers wrote.
    os.umask(0o077)
    with logged(loaded):
        uvloop.run(process.serve(loaded, found=start_findings(), **given))


@contextlib.contextmanager
def logged(loaded: "Settings") -> Iterator[None]:
    """Logs, and reports errors if that is set, until the end. An error that nobody expected is logged and raised."""
    import structlog

    from metamorphd.errors import ServerFailed, StartupRefused
    from metamorphd.log_output import STANDARD_OUTPUT
    from metamorphd.observe import configure_logging

    with _reports(loaded) as watching:
        configure_logging(loaded.log_level, *watching)
        try:
            yield
        except (StartupRefused, ServerFailed):
            raise
        except Exception:
            structlog.get_logger(__name__).critical("the server failed", exc_info=True)
            raise
        finally:
            STANDARD_OUTPUT.close()


@contextlib.contextmanager
def _reports(loaded: "Settings") -> Iterator[list["Processor"]]:
    if loaded.sentry_dsn is None:
        yield []
        return
    from importlib.metadata import version

    from metamorphd.reports.sentry import Reports

    environment, release = loaded.sentry_environment or loaded.node_env, version("metamorphd")
    dsn = loaded.sentry_dsn.get_secret_value()
    with contextlib.closing(Reports(dsn=dsn, environment=environment, release=release)) as reports:
        yield [reports]


@click.command()
def serve() -> None:
    """Serve, configured by environment variables (see .env.example)."""
    from metamorphd.settings import loading

    _run(loading.load())


@click.command()
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="gRPC port; 0 takes a free one.  [default: 50051]")
@click.option("--port", type=click.IntRange(0, 65535), help="HTTP port; 0 takes a free one.  [default: 3001]")
@click.option("--database", type=click.Path(path_type=Path), help="SQLite file.  [default: ./data/metamorph.db]")
def dev(grpc_port: int | None, port: int | None, database: Path | None) -> None:
    """Serve in dev mode on loopback: no token needed, an offline model unless ANTHROPIC_API_KEY is set."""
    from metamorphd.settings import loading

    loaded = loading.load_dev(grpc_port=grpc_port, port=port, database_path=database)

    def announce(running: "Server") -> None:
        target = f"127.0.0.1:{running.grpc_port}"
        model = "Claude" if loaded.anthropic_api_key else "an offline model; set ANTHROPIC_API_KEY for Claude"
        # Nobody may be reading.
        with contextlib.suppress(OSError):
            click.echo(
                f"Serving gRPC on {target} and HTTP on http://127.0.0.1:{running.http_port}/health\n"
                f"Data is stored in {loaded.database_path}; replies come from {model}. Try:\n\n"
                f"  grpcurl -plaintext -d '{{}}' {target} metamorph.vault.v1.VaultService/WhoAmI\n"
                f"  .venv/bin/metamorph chat --target {target}\n",
                err=True,
            )

    _run(loaded, announce=announce)
