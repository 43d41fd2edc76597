"""The client of Metamorph, a multi-tenant chat backend: generated stubs, and two clients over them.

`MetamorphClient` is for asyncio, `SyncMetamorphClient` for threads. Both have the same methods.
"""

from importlib import metadata

from metamorph_client.channel import TLS
from metamorph_client.client import MetamorphClient
from metamorph_client.content import text
from metamorph_client.errors import MetamorphError, Violation
from metamorph_client.replies import Reply
from metamorph_client.sync import SyncMetamorphClient, SyncReply
from metamorph_client.tools import Tool

__version__ = metadata.version("metamorph-client")

__all__ = [
    "TLS",
    "MetamorphClient",
    "MetamorphError",
    "Reply",
    "SyncMetamorphClient",
    "SyncReply",
    "Tool",
    "Violation",
    "__version__",
    "text",
]
