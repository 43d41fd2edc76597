"""The settings of observation."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr

from metamorphd.settings.values import Dsn, LogLevel
from metamorphd.telemetry.receiver import otlp_endpoint, otlp_headers


class ObservationSettings(BaseModel):
    """Log, reports of errors, traces and metrics."""

    log_level: LogLevel = Field(default="info", description="debug, info, warning or error.")
    sentry_dsn: Dsn = Field(
        default=None, description="Where errors are reported, https://key@host/project. Default: nowhere."
    )
    sentry_environment: str | None = Field(
        default=None, description="Environment that reports of errors name. Default: NODE_ENV."
    )
    otel_exporter_otlp_endpoint: Annotated[str | None, AfterValidator(otlp_endpoint)] = Field(
        default=None,
        description=(
            "URL of an OTLP receiver (OpenTelemetry, HTTP with protobuf), for example http://collector:4318. Default: "
            "nothing is traced."
        ),
    )
    otel_exporter_otlp_headers: Annotated[SecretStr | None, AfterValidator(otlp_headers)] = Field(
        default=None, description="Headers for it, name=value, separated by commas, with values as in a URL (%20)."
    )
    otel_service_name: str = Field(default="metamorph", description="Name of this service in traces and metrics.")
    otel_traces_sampler_arg: float = Field(
        default=0.01, ge=0, le=1, description="Share of calls that are traced, unless their callers have decided."
    )
    otel_metrics_exporter: Literal["otlp", "none"] = Field(
        default="otlp", description="none if the OTLP receiver takes no metrics."
    )
