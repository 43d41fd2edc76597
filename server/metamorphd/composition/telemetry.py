"""Telemetry, if there is a receiver."""

import importlib
from importlib.metadata import version

from metamorphd.clock import Clock
from metamorphd.settings.server import Settings
from metamorphd.telemetry import names
from metamorphd.telemetry.interface import NoTelemetry, Telemetry
from metamorphd.telemetry.receiver import headers_of


def make_telemetry(settings: Settings, clock: Clock) -> Telemetry:
    """Returns what sends traces and metrics to the OTLP receiver, or what sends nothing if there is none."""
    if settings.otel_exporter_otlp_endpoint is None:
        return NoTelemetry()
    # Imported only when used.
    telemetry: Telemetry = importlib.import_module("metamorphd.telemetry.otlp").Otlp(
        endpoint=settings.otel_exporter_otlp_endpoint,
        headers=headers_of(settings.otel_exporter_otlp_headers),
        resource={
            names.SERVICE_NAME: settings.otel_service_name,
            names.SERVICE_VERSION: version("metamorphd"),
            names.SERVICE_INSTANCE_ID: clock.new_id("srv"),
            names.DEPLOYMENT_ENVIRONMENT: settings.node_env,
        },
        share=settings.otel_traces_sampler_arg,
        sends_metrics=settings.otel_metrics_exporter == "otlp",
    )
    return telemetry
