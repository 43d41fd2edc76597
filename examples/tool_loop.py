"""Lets the model call two functions until it has its answer: `python examples/tool_loop.py "Is it colder in Oslo?"`."""

import asyncio
import os
import sys
from typing import Literal

from metamorph_client import MetamorphClient
from metamorph_client.chat.v1.turn_pb2 import StopReason

TARGET, TOKEN = os.environ.get("METAMORPH_TARGET", "localhost:50051"), os.environ.get("METAMORPH_TOKEN")
CELSIUS = {"Oslo": -3.5, "Rome": 14.0}


async def temperature(city: str) -> float:
    """Returns the temperature in a city, in degrees Celsius."""
    # The model chose the argument: check it as you would check a stranger's. It sees what an exception says.
    if city not in CELSIUS:
        raise ValueError(f"no station in {city}: there is one in {', '.join(CELSIUS)}")
    return CELSIUS[city]


def convert(degrees: float, unit: Literal["celsius", "fahrenheit"]) -> float:
    """Converts degrees of the other unit to `unit`."""
    return degrees * 9 / 5 + 32 if unit == "fahrenheit" else (degrees - 32) * 5 / 9


async def main(question: str) -> None:
    async with MetamorphClient(TARGET, token=TOKEN) as client:
        session = await client.create_session(title="The weather")
        finished = await client.run_tools(session.session_id, question, [temperature, convert], max_rounds=5)
    print("".join(block.text.text for block in finished.message.content))
    if finished.error.reason or finished.stop_reason != StopReason.STOP_REASON_END_TURN:
        sys.exit(f"not the whole answer: {finished.error.message or StopReason.Name(finished.stop_reason)}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Is it colder in Oslo or in Rome, in Fahrenheit?"))
