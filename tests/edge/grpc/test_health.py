"""gRPC health and reflection."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection_pb2
from metamorphd.edge.grpc.reflection import V1, V1ALPHA
from metamorphd.server import NAMES

from tests.support.refusal import refused
from tests.support.serving import Serving, serving


@pytest.mark.parametrize("service", ["", *NAMES])
async def test_health_is_serving_overall_and_per_service_without_a_token(running: Serving, service: str) -> None:
    answer = await running.caller("").health.Check(HealthCheckRequest(service=service))
    assert answer.status == HealthCheckResponse.SERVING


async def test_an_unknown_service_is_not_found(running: Serving) -> None:
    refusal = await refused(running.caller("").health.Check(HealthCheckRequest(service="nothing")))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


async def test_a_watch_reports_the_drain_without_delaying_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        watch = running.caller("").health.Watch(HealthCheckRequest(service=""))
        states = aiter(watch)
        assert (await anext(states)).status == HealthCheckResponse.SERVING
        stopping = asyncio.create_task(running.server.stop(grace_seconds=25))
        assert (await anext(states)).status == HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(stopping, 5)


@pytest.mark.parametrize("name", [V1, V1ALPHA])
async def test_reflection_lists_services_and_types_without_a_token(running: Serving, name: str) -> None:
    channel = running.caller("").channel
    reflect = channel.stream_stream(
        f"/{name}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="metamorph.chat.v1.ChatService"),
    ]
    listed, file = [answer async for answer in reflect(iter(requests))]
    assert {service.name for service in listed.list_services_response.service} >= {*NAMES, V1, V1ALPHA}
    assert file.file_descriptor_response.file_descriptor_proto
