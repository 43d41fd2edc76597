"""The catalog of accepted models: their limits, prices, and retirement dates.

The built-in catalog is `catalog.json` beside this file; MODEL_CATALOG replaces it with a file of the same format. Files
give prices in US dollars per million tokens, as providers do; here they are in billionths of a dollar per token.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)

from metamorphd.errors import StartupRefused
from metamorphd.models.capabilities import MOST_PAGES, Capabilities, most_pages
from metamorphd.models.content import AttachmentBlock, DocumentBlock
from metamorphd.models.generation import EffectiveOptions
from metamorphd.models.usage import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """Prices per token, in billionths of a US dollar, of calls that read more than `above_input_tokens`."""

    above_input_tokens: int
    input_usd_nanos: int
    output_usd_nanos: int
    cache_read_usd_nanos: int
    cache_write_usd_nanos: int


# Upper bounds of the tokens in a prompt. Text has at most one token per byte.
# The provider's own instructions for tools, and the framing of a prompt.
# What the provider says of it to the model.
MEMORY_TOOL_TOKENS = 4_000
FRAME_TOKENS = 2000
# The provider scales larger images down to this.
IMAGE_TOKENS = 5000
# Prose has four to five bytes for each token.
MOST_BYTES_PER_TOKEN = 8
# The provider reads a page of a PDF both as text and as an image. Pages of very few bytes are rare.
DOCUMENT_TOKENS_PER_BYTE = 2


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """An accepted model. `prices` are sorted by `above_input_tokens`, from 0; `successor` may be empty."""

    model: str
    display_name: str
    context_tokens: int
    max_output_tokens: int
    prices: tuple[Price, ...]
    retire_time: int | None
    successor: str
    capabilities: Capabilities

    @property
    def context_bytes(self) -> int:
        """Returns a number of bytes of text that surely exceeds the model's context."""
        return self.context_tokens * MOST_BYTES_PER_TOKEN

    def most_input_tokens(
        self,
        *,
        system_prompt: str,
        options: EffectiveOptions,
        message_bytes: int,
        attachments: Iterable[AttachmentBlock],
    ) -> int:
        """Returns the maximum number of tokens of a prompt whose messages have `message_bytes` and the attachments."""
        tokens = FRAME_TOKENS + len(system_prompt.encode()) + len(orjson.dumps(options)) + message_bytes
        tokens += MEMORY_TOOL_TOKENS if options.memory_tool else 0
        for block in attachments:
            tokens += IMAGE_TOKENS
            if isinstance(block, DocumentBlock):
                tokens += block.size * DOCUMENT_TOKENS_PER_BYTE
        return min(tokens, self.context_tokens)


# One US dollar per million tokens, in billionths of a dollar per token.
NANOS = 1000
LARGEST_TOKENS = 2**31 - 1
# Keeps the cost of LARGEST_TOKENS within 64 bits.
LARGEST_DOLLARS = 10_000


class Catalog:
    """The accepted models, by name."""

    def __init__(self, models: Iterable[CatalogModel]) -> None:
        self._models = {model.model: model for model in sorted(models, key=lambda model: model.model)}

    @property
    def models(self) -> tuple[CatalogModel, ...]:
        """Returns all models, sorted by name."""
        return tuple(self._models.values())

    def accepts(self, model: str) -> bool:
        """Returns whether the model is accepted."""
        return model in self._models

    def model(self, model: str) -> CatalogModel:
        """Returns a model, which must be accepted."""
        return self._models[model]

    def cost(self, model: str, usage: Usage) -> int:
        """Returns the cost of one call in billionths of a US dollar. The model must be accepted.

        The size of the call, which selects the price, is all that it reads, cached or not.
        """
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        prices = self._models[model].prices
        price = next(price for price in reversed(prices) if read > price.above_input_tokens or price is prices[0])
        return (
            usage.input_tokens * price.input_usd_nanos
            + usage.output_tokens * price.output_usd_nanos
            + usage.cache_read_tokens * price.cache_read_usd_nanos
            + usage.cache_write_tokens * price.cache_write_usd_nanos
        )

    def most_cost(self, model: str, *, input_tokens: int, output_tokens: int) -> int:
        """Returns the most that one call can cost, as `cost` does."""
        # Whichever is dearer: what is read for the first time, or what is put into the cache as well.
        read = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
        cached = Usage(cache_write_tokens=input_tokens, output_tokens=output_tokens)
        return max(self.cost(model, read), self.cost(model, cached))


def load_catalog(path: Path | None, *, now: int) -> Catalog:
    """Reads the catalog at `path`, or the built-in one if it is None. Raises StartupRefused, in one line.

    `now` is in microseconds since the epoch. Prices cannot have been read after tomorrow, wherever that has begun.
    """
    file = resources.files(__package__).joinpath("catalog.json") if path is None else path
    try:
        # Decimal, because a price must not be rounded.
        content = json.loads(file.read_text(), parse_float=Decimal, parse_constant=_refuse_constant)
        entries = _File.model_validate(content, context=_tomorrow(now)).models
    except OSError as exc:
        raise StartupRefused(
            f"MODEL_CATALOG {file} cannot be read ({exc.strerror}); set it to a readable file"
        ) from None
    except ValidationError as exc:
        error = exc.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise StartupRefused(f"MODEL_CATALOG {file} is invalid: {where}: {error['msg']}") from None
    except ValueError as exc:
        raise StartupRefused(f"MODEL_CATALOG {file} is not JSON ({exc})") from None
    models = [entry.value() for entry in entries]
    _refuse_contradictions(models, file)
    return Catalog(models)


def _tomorrow(now: int) -> date:
    return datetime.fromtimestamp(now / 1_000_000, UTC).date() + timedelta(days=1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _refuse_contradictions(models: list[CatalogModel], file: object) -> None:
    names = [model.model for model in models]
    for model in models:
        tiers = [price.above_input_tokens for price in model.prices]
        if names.count(model.model) > 1:
            raise StartupRefused(f"MODEL_CATALOG {file} contains {model.model} twice")
        if tiers != sorted(set(tiers)) or tiers[0] != 0:
            raise StartupRefused(
                f"MODEL_CATALOG {file}: the prices of {model.model} must have ascending above_input_tokens, from 0"
            )
        if model.successor and model.successor not in names:
            raise StartupRefused(
                f"MODEL_CATALOG {file}: the successor of {model.model}, {model.successor}, is not in the catalog"
            )


def _nanos(value: object) -> int:
    """Converts US dollars per million tokens to billionths of a dollar per token, which must be a whole number.

    Fractions would have to be rounded, and the errors would add up.
    """
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not 0 <= value <= LARGEST_DOLLARS:
        raise ValueError("must be a number of US dollars")
    nanos = value * NANOS
    if nanos != int(nanos):
        raise ValueError("must be a whole number of billionths of a US dollar per token")
    return int(nanos)


def _past(value: date, info: ValidationInfo) -> date:
    """Returns a day that is not later than the latest, which is the context."""
    if info.context is not None and value > info.context:
        raise ValueError(f"must not be in the future, after {info.context}")
    return value


# The format of the file.

_Nanos = Annotated[int, PlainValidator(_nanos)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$")]
_Tokens = Annotated[int, Field(strict=True, ge=1, le=LARGEST_TOKENS)]


class _Form(BaseModel):
    # A misspelled name would otherwise leave the field at its default.
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Dollars(_Form):
    input: _Nanos
    output: _Nanos
    cache_read: _Nanos
    cache_write: _Nanos


class _Price(_Form):
    above_input_tokens: Annotated[int, Field(strict=True, ge=0, le=LARGEST_TOKENS)]
    usd_per_million_tokens: _Dollars


class _Capabilities(_Form):
    thinking: tuple[Literal["adaptive", "enabled", "disabled", "between_tools"], ...]
    thinks_by_default: bool
    forced_tool_choice: bool
    efforts: tuple[Literal["low", "medium", "high", "xhigh", "max"], ...]
    images: bool
    documents: bool
    attachments: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    # By default as many as the provider accepts. It accepts no document of more than MOST_PAGES.
    document_pages: Annotated[int, Field(strict=True, ge=1, le=MOST_PAGES)] | None = None
    response_schema: bool
    summaries: bool = True

    def value(self, *, context_tokens: int) -> Capabilities:
        values = self.model_dump(exclude_none=True)
        return Capabilities(**({"document_pages": most_pages(context_tokens)} | values))


class _Model(_Form):
    model: _Name
    display_name: Annotated[str, Field(min_length=1, max_length=200)]
    context_tokens: _Tokens
    max_output_tokens: _Tokens
    prices: Annotated[list[_Price], Field(min_length=1)]
    # For people: where the prices are from, and when they were read.
    prices_source: str = ""
    prices_date: Annotated[date, AfterValidator(_past)] | None = None
    # Without them everything is passed on, for the provider to judge.
    capabilities: _Capabilities | None = None
    retire_time: AwareDatetime | None = None
    successor: _Name | None = None

    def value(self) -> CatalogModel:
        return CatalogModel(
            model=self.model,
            display_name=self.display_name,
            context_tokens=self.context_tokens,
            max_output_tokens=self.max_output_tokens,
            prices=tuple(_price(price) for price in self.prices),
            retire_time=None if self.retire_time is None else _microseconds(self.retire_time),
            successor=self.successor or "",
            capabilities=(
                Capabilities(document_pages=most_pages(self.context_tokens))
                if self.capabilities is None
                else self.capabilities.value(context_tokens=self.context_tokens)
            ),
        )


class _File(_Form):
    models: Annotated[list[_Model], Field(min_length=1)]


def _price(price: _Price) -> Price:
    dollars = price.usd_per_million_tokens
    return Price(price.above_input_tokens, dollars.input, dollars.output, dollars.cache_read, dollars.cache_write)


def _microseconds(time: datetime) -> int:
    return round(time.timestamp()) * 1_000_000
