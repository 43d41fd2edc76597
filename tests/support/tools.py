"""A tool, a reply that calls it, and its result."""

from metamorph_client.chat.v1 import generation_pb2, message_pb2

from tests.support.fakes.replies import Reply, tool_use

# A Struct would not preserve these numbers and the order of members.
SCHEMA = (
    '{"type": "object", "properties": {"z": {"type": "integer", "maximum": 9007199254740993}, "a": {"type": "string"}}}'
)
WEATHER = generation_pb2.Tool(name="weather", description="Tells the weather.", input_schema=SCHEMA)
CALL = tool_use("toolu_1", "weather", '{"z": 1, ', '"a": "Paris"}')
ASKS = Reply(("Let me look. ", CALL), stop_reason="tool_use")


def result(tool_use_id: str = "toolu_1", text: str = "Sunny", *, is_error: bool = False) -> message_pb2.ContentBlock:
    part = message_pb2.ToolResultPart(text=message_pb2.TextBlock(text=text))
    answer = message_pb2.ToolResultBlock(tool_use_id=tool_use_id, content=[part], is_error=is_error)
    return message_pb2.ContentBlock(tool_result=answer)
