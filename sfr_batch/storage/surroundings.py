"""What lies directly in a folder, on disk or on S3, asked with few requests: for a look at the folders around a corpus.

Knows names; does not know what they mean.
"""

import os
from collections.abc import Iterator

from sfr_batch.config.settings import StorageSettings
from sfr_batch.storage.failures import explained
from sfr_batch.storage.locations import is_s3
from sfr_batch.storage.s3 import filesystem

_PAGE = 1000  # names in one answer of S3


def folders_from(uri: str) -> Iterator[str]:
    """The folder ``uri`` and all above it, the nearest first. Of a local folder also those above its real path."""
    if is_s3(uri):
        parts = uri.removeprefix("s3://").split("/")
        yield from (f"s3://{'/'.join(parts[:end])}" for end in range(len(parts), 0, -1))
        return
    for folder in dict.fromkeys((uri, os.path.realpath(uri))):
        while True:
            yield folder
            if folder == os.path.dirname(folder):
                break
            folder = os.path.dirname(folder)


def names_in(folder: str, beginning: str, settings: StorageSettings) -> tuple[list[str], bool]:
    """Names directly in a folder that begin with ``beginning``, folders with a slash behind; and whether these are all.

    On S3 one request, which answers with the first 1,000 in the order of their bytes. A folder that does not exist, or
    that may not be listed, has none.
    """
    if not is_s3(folder):
        return _names_on_disk(folder, beginning), True
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    start = f"{prefix}/" if prefix else ""
    with explained("list", folder):
        try:
            answer = filesystem(folder, settings).call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=start + beginning, Delimiter="/", MaxKeys=_PAGE
            )
        except (PermissionError, FileNotFoundError):
            return [], True
    names = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
    names += [item["Key"] for item in answer.get("Contents", ())]
    return [name[len(start) :] for name in names], not answer.get("IsTruncated")


def _names_on_disk(folder: str, beginning: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                f"{entry.name}/" if entry.is_dir() else entry.name
                for entry in entries
                if entry.name.startswith(beginning)
            ]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
