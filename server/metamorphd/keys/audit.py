"""The keys that authenticate the logs of vaults."""

from collections.abc import Sequence

from metamorphd.chain import Chain, ChainKey
from metamorphd.keys.ring import KEY_ID_BYTES
from metamorphd.keys.sealing import derived


def make_chain(texts: Sequence[str]) -> Chain:
    """Returns the chain whose keys are made of texts, the current one first. A text may have any form."""
    return Chain([_key(text) for text in texts])


def _key(text: str) -> ChainKey:
    key = derived(text.encode(), purpose=b"audit key")
    return ChainKey(derived(key, purpose=b"key id", length=KEY_ID_BYTES).hex(), key)
