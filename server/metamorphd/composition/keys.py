"""The keys that wrap data keys."""

from metamorphd.clock import beginning
from metamorphd.keys.environment import EnvironmentKeys, wrapping_key
from metamorphd.keys.holder import KeyHolder, NoKeys
from metamorphd.keys.key_file import KeyFile
from metamorphd.keys.vault_keys import VaultKeys
from metamorphd.settings.server import Settings


def make_keys(settings: Settings) -> VaultKeys:
    """Returns the keys of vaults. Raises StartupRefused if those that wrap them cannot be read."""
    return VaultKeys(_holder(settings))


def _holder(settings: Settings) -> KeyHolder:
    texts = settings.key_texts
    if settings.token_encryption_key_file is not None:
        return KeyFile(settings.token_encryption_key_file, previous=list(map(wrapping_key, texts)))
    if not texts:
        return NoKeys()
    since = settings.token_encryption_key_date
    return EnvironmentKeys(texts, key_time=None if since is None else beginning(since))
