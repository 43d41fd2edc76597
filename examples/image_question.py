"""Asks about an image: `python examples/image_question.py chart.png "Which month was the best?"`."""

import asyncio
import mimetypes
import os
import sys
from pathlib import Path

from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.chat.v1.message_pb2 import ContentBlock, ImageBlock, TextBlock

TARGET, TOKEN = os.environ.get("METAMORPH_TARGET", "localhost:50051"), os.environ.get("METAMORPH_TOKEN")


async def main(path: Path, question: str) -> None:
    media_type = mimetypes.guess_type(path.name)[0] or ""
    async with MetamorphClient(TARGET, token=TOKEN) as client:
        # Stored once: any message of this vault can refer to it, and none has its bytes.
        attachment = await client.upload(path, media_type=media_type)
        print(f"{attachment.attachment_id}: {attachment.size_bytes} bytes", file=sys.stderr)
        image = ContentBlock(image=ImageBlock(attachment_id=attachment.attachment_id, media_type=media_type))
        session = await client.create_session(title=question[:200])
        reply = await client.start(session.session_id, [image, ContentBlock(text=TextBlock(text=question))])
        async for text in reply.text():
            print(text, end="", flush=True)
        print()
        # It is in the conversation, so the next question needs no image.
        reply = await client.start(session.session_id, "Say it in one word.")
        async for text in reply.text():
            print(text, end="", flush=True)
        print()


if len(sys.argv) == 1:
    sys.exit("usage: python examples/image_question.py IMAGE [QUESTION]")
try:
    asyncio.run(main(Path(sys.argv[1]), " ".join(sys.argv[2:]) or "What is in this image?"))
except MetamorphError as error:
    # Such as a type of file that is no image, one that is too large, or a damaged one.
    sys.exit(str(error))
