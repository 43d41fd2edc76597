"""The client of Metamorph, a multi-tenant chat backend: generated stubs, and `MetamorphClient` over them."""

from metamorph_client.client import MetamorphClient, MetamorphError

__all__ = ["MetamorphClient", "MetamorphError"]
