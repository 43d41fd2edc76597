"""Finds what the provider blames when it rejects a request, which only the text of its error says.

It names a place, `messages.4.content.1.image.source` for instance, or says what is wrong without one.
"""

import re

from metamorphd.llm.request import Request

_PLACE = re.compile(
    r"messages\.(?P<message>\d{1,6})(?:\.content\.(?P<block>\d{1,6})(?:\.tool_result\.content\.(?P<part>\d{1,6}))?)?"
    r"(?P<attachment>\.(?:image|document|pdf))?"
)
_UNREADABLE = re.compile(r"[Cc]ould not process (image|PDF)|PDF pages may be provided")
# What is no message, at the beginning of an error or within it, and the field of ours that it is made from.
_OPTION = re.compile(
    r"[\"'`]?(tools|tool_choice|thinking|output_config|max_tokens|stop_sequences|system|model)\b(?:\.(\w+))?"
)
_FIELDS = {
    "max_tokens": "options.max_output_tokens",
    "model": "options.model",
    "output_config": "options.response_schema",
    "output_config.effort": "options.effort",
    "stop_sequences": "options.stop_sequences",
    "thinking": "options.thinking",
    "tool_choice": "options.tool_choice",
    "tools": "options.tools",
}
# In metadata, whose values are bounded, so many ids fit. A message with more that may be to blame is blamed itself.
MOST_NAMED = 11
# Others are not about what was sent, an unknown model or address for instance.
_OF_CONTENT = ("invalid_request_error", "request_too_large")


def blamed(request: Request, *, rejected: str, message: str) -> dict[str, str]:
    """Returns what an error of the type `rejected` blames, as metadata.

    `attachment_ids` are those of images and documents, at most MOST_NAMED, separated by commas: the one that is named,
    or those of the newest message that has any. Else `field` is the field of a SendMessageRequest: a block of the
    message that was to be answered, all of its content if nothing says more, or an option. `message_id` is that of an
    earlier message, or of what was said in the turn, if nothing says more about a further call. Empty if none is known.
    """
    place = _PLACE.search(message)
    # One that occurs twice is named once.
    found = list(dict.fromkeys(_attachments(request, place, message)))
    if found and (len(found) <= MOST_NAMED or not _in_last(request)):
        return {"attachment_ids": ",".join(found[:MOST_NAMED])}
    if place is not None:
        number = int(place["message"])
        if number == request.asked and not request.own:
            return _of_block(place)
        other = request.message_ids[number] if number < len(request.message_ids) else ""
        return {"message_id": other} if other else {}
    if (option := _OPTION.match(message)) is not None:
        name, member = option.groups()
        field = _FIELDS.get(f"{name}.{member}") or _FIELDS.get(name)
        return {"field": field} if field else {}
    if rejected not in _OF_CONTENT:
        return {}
    # The first call had the message too, and was answered.
    return {"message_id": request.message_ids[-1]} if request.own else {"field": "content"}


def _attachments(request: Request, place: re.Match[str] | None, message: str) -> list[str]:
    if place is not None and place["attachment"]:
        named = tuple(int(place[name] or 0) for name in ("message", "block", "part"))
        return [attachment_id for *at, attachment_id in request.places if tuple(at) == named]
    if place is None and _UNREADABLE.search(message) is not None and request.places:
        newest, *_ = request.places[-1]
        return [attachment_id for number, *_, attachment_id in request.places if number == newest]
    return []


def _in_last(request: Request) -> bool:
    """Returns whether the newest attachments are in the message that was to be answered."""
    return request.places[-1][0] == request.asked


def _of_block(place: re.Match[str]) -> dict[str, str]:
    field = "content" if place["block"] is None else f"content[{place['block']}]"
    return {"field": field if place["part"] is None else f"{field}.tool_result.content[{place['part']}]"}
