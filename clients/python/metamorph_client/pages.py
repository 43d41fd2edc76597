"""Lists as iterators, which ask for page after page."""

from collections.abc import AsyncGenerator, Callable
from typing import Any

from google.protobuf.message import Message


async def each(method: Callable[[Any], Any], request: Message) -> AsyncGenerator[Any]:
    """Yields what the pages of a list have, in order. Raises MetamorphError, and TypeError if there are no pages."""
    if "page_token" not in request.DESCRIPTOR.fields_by_name:
        raise TypeError(f"{request.DESCRIPTOR.name} asks for no pages")
    asked: Any = type(request)()
    asked.CopyFrom(request)
    while True:
        page = await method(asked)
        # The only list in it (AIP-158).
        for field, values in page.ListFields():
            if field.is_repeated:
                for value in values:
                    yield value
        if not page.next_page_token:
            return
        asked.page_token = page.next_page_token
