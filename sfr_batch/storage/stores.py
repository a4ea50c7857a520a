"""Opens the store of a URI, local or S3. Another kind of store is opened here; see `store` for what else it needs."""

import contextlib
import os

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.locations import Location, absolute_uri, is_s3
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import TEMPORARY, Store


def tidy(store: Store) -> None:
    """Remove the empty temporary folder of a local store. Does nothing on other stores."""
    if isinstance(store, LocalStore):
        folder = os.path.join(store.root, TEMPORARY)
        with contextlib.suppress(OSError):
            os.removedirs(folder)


def open_store(uri: Location, settings: StorageSettings | None = None) -> Store:
    """The store whose root is a local folder or an s3:// prefix. Raises ConfigError."""
    if not isinstance(settings, StorageSettings | None):
        raise ConfigError(
            f"Storage settings are of the type {type(settings).__name__}. Give them as "
            "StorageSettings(endpoint_url=…, region=…)."
        )
    root = absolute_uri(uri)
    return S3Store(root, settings or StorageSettings()) if is_s3(root) else LocalStore(root)
