"""Opens the store of a URI, local or S3."""

import contextlib
import os

from sfr_batch.config.settings import StorageSettings
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import TEMPORARY, Store, absolute_uri, is_s3


def tidy(store: Store) -> None:
    """Remove the empty folder in which a local store has put objects together; nothing else."""
    if isinstance(store, LocalStore):
        folder = os.path.join(store.root, TEMPORARY)
        with contextlib.suppress(OSError):
            os.removedirs(folder)


def open_store(uri: str, settings: StorageSettings | None = None) -> Store:
    """The store rooted at a local folder or an s3:// prefix."""
    uri = absolute_uri(uri)
    return S3Store(uri, settings or StorageSettings()) if is_s3(uri) else LocalStore(uri)
