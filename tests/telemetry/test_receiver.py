"""How an OTLP receiver is named in the settings."""

import pytest
from metamorphd.errors import StartupRefused
from metamorphd.settings import loading
from metamorphd.telemetry.receiver import headers_of

from tests.support.tokens import SECRET


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4318",
        "collector",
        "http://",
        "http://:4318",
        "http://collector:port",
        "http://collector:99999",
        "http://[::1",
        "grpc://collector:4317",
        "https://user:canary@collector",
        "https://collector?key=canary",
        "https://collector#canary",
    ],
)
def test_a_url_that_cannot_be_a_receivers_is_refused(url: str) -> None:
    with pytest.raises(StartupRefused, match="OTEL_EXPORTER_OTLP_ENDPOINT") as refusal:
        loading.load(emblem_jwt_secret=SECRET, otel_exporter_otlp_endpoint=url)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://localhost:4318", "https://otlp.example/otlp/", "http://[::1]:4318"])
def test_a_url_is_taken_as_it_is(url: str) -> None:
    assert loading.load(emblem_jwt_secret=SECRET, otel_exporter_otlp_endpoint=url).otel_exporter_otlp_endpoint == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api-key=abc", {"api-key": "abc"}),
        (" Authorization = Bearer%20a=b== , x-team=a b,", {"authorization": "Bearer a=b==", "x-team": "a b"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_headers_are_encoded_as_in_a_url(text: str, expected: dict[str, str]) -> None:
    loaded = loading.load(emblem_jwt_secret=SECRET, otel_exporter_otlp_headers=text)
    assert headers_of(loaded.otel_exporter_otlp_headers) == expected
    assert headers_of(None) == {}


@pytest.mark.parametrize(
    "text", ["canary", "=canary", "a b=canary", "a=canary%0d%0aevil: 1", "a=canary%ff", "a=canaryä"]
)
def test_headers_that_cannot_be_sent_are_refused(text: str) -> None:
    with pytest.raises(StartupRefused, match="OTEL_EXPORTER_OTLP_HEADERS") as refusal:
        loading.load(emblem_jwt_secret=SECRET, otel_exporter_otlp_headers=text)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("share", [-0.1, 1.1, "some", "nan"])
def test_a_share_is_a_part_of_all(share: object) -> None:
    with pytest.raises(StartupRefused, match="OTEL_TRACES_SAMPLER_ARG"):
        loading.load(emblem_jwt_secret=SECRET, otel_traces_sampler_arg=share)
