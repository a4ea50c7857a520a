"""Turns errors of operating systems and S3 clients into StorageError with a way out."""

import contextlib
import errno
from collections.abc import Iterator

from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.storage.store import is_s3

_REASONS = {
    errno.ENOSPC: "no space left; free some and run the command again.",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again.",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f); raise the limit and run the "
    "command again.",
    errno.EROFS: "the file system is read-only; choose another path, or mount it for writing.",
    errno.ENOTDIR: "a file is where a folder should be; correct the path.",
}


def s3_code(error: BaseException) -> str:
    """The store's own code of a failure: s3fs hangs the client's error on its own, as cause or only as context."""
    response = getattr(error.__cause__ or error.__context__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextlib.contextmanager
def explained(verb: str, what: str) -> Iterator[None]:
    """Turn the many exceptions of file systems and S3 clients into ours, naming the object and the way out."""
    try:
        yield
    except FileNotFoundError as error:
        if s3_code(error) == "NoSuchBucket":
            raise StorageError(
                f"Cannot {verb} {what}: there is no such bucket; create it or correct the path."
            ) from error
        raise ObjectNotFound(f"Cannot {verb} {what}: it does not exist ({error}).") from error
    except PermissionError as error:
        hint = "check the credentials, the bucket policy and the endpoint" if is_s3(what) else "check its permissions"
        raise StorageError(f"Cannot {verb} {what}: access denied ({error}); {hint}.") from error
    except OSError as error:
        raise StorageError(f"Cannot {verb} {what}: {_REASONS.get(error.errno or 0, error)}") from error
    except Exception as error:
        # ValueError is what s3fs and botocore make of a bucket name or an endpoint that cannot be one.
        client = type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp"))
        if client or (is_s3(what) and isinstance(error, ValueError)):
            raise StorageError(f"Cannot {verb} {what}: {error}; check credentials, endpoint and region.") from error
        raise
