"""The attributes of calls, operations and usage. Never what a caller or a model has written, nor who a caller is."""

import asyncio
from collections.abc import Mapping

from metamorphd.errors import DomainError
from metamorphd.models.span import Attributes
from metamorphd.models.usage import Usage
from metamorphd.telemetry import names


def of_method(path: str) -> Mapping[str, str]:
    """Returns the attributes of calls of a method, `/package.Service/Method`, in traces and in metrics."""
    return {names.RPC_SYSTEM: names.GRPC, names.RPC_METHOD: path[1:]}


def of_status(code: str) -> Mapping[str, str]:
    """Returns those of a call's end, in traces and in metrics."""
    status = {names.RPC_STATUS: code}
    return status | {names.ERROR_TYPE: code} if code in names.SERVER_ERRORS else status


def of_operation(engine: str, operation: str) -> Mapping[str, str]:
    """Returns those of an operation of a store."""
    return {names.DB_SYSTEM: engine, names.DB_OPERATION: operation}


def of_usage(usage: Usage) -> Attributes:
    """Returns those of the tokens that were used."""
    return {
        names.GEN_AI_INPUT_TOKENS: usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        names.GEN_AI_OUTPUT_TOKENS: usage.output_tokens,
        names.GEN_AI_CACHE_READ_TOKENS: usage.cache_read_tokens,
        names.GEN_AI_CACHE_WRITE_TOKENS: usage.cache_write_tokens,
    }


def error_type(error: BaseException | None) -> str:
    """Returns the type of an error, empty if there is none or the caller is to blame, or gone."""
    if error is None or isinstance(error, asyncio.CancelledError | GeneratorExit):
        return ""
    if isinstance(error, DomainError):
        return error.reason_name() if error.code.name in names.SERVER_ERRORS else ""
    return type(error).__name__
