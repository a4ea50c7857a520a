"""Errors of operating systems and S3 clients as StorageErrors that say what to do, and what the codes of S3 mean.

`explained` is the one place that turns them. It knows no client: `s3_client` raises `S3ClientError` for errors that are
not the store's answer.
"""

import contextlib
import errno
from collections.abc import Iterator

from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.storage.store import is_s3

_ACCESS_DENIED = "access denied ({error}); check {access}."
_CAUSES: dict[int | str, tuple[type[StorageError], str]] = {
    errno.ENOENT: (ObjectNotFound, "it does not exist ({error})."),
    errno.EACCES: (StorageError, _ACCESS_DENIED),
    errno.EPERM: (StorageError, _ACCESS_DENIED),
    errno.ENOSPC: (StorageError, "no space left; free some and run the command again."),
    errno.EDQUOT: (StorageError, "the disk quota is used up; free some space and run the command again."),
    errno.EFBIG: (
        StorageError,
        "the file would be larger than this process may write (ulimit -f); raise the limit and run the command again.",
    ),
    errno.EROFS: (StorageError, "the file system is read-only; choose another path, or mount it for writing."),
    errno.ENOTDIR: (StorageError, "a file is where a folder should be; correct the path."),
    "NoSuchBucket": (StorageError, "there is no such bucket; create it or correct the path."),
    "S3 client": (StorageError, "{error}; check credentials, endpoint and region."),
}
"""Code of a failure, an errno or a code of S3, to our exception and its text. s3fs gives most codes of S3 an errno."""
_ERRNO_OF = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
"""For exceptions that s3fs and we raise without an errno."""

NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""Errors of `link` on a file system without hard links."""

# Codes of S3 that are an answer and no failure.
KEY_IS_TAKEN = {"PreconditionFailed"}
WRITE_UNDER_WAY = {"ConditionalRequestConflict", "NoSuchUpload"}
"""Another conditional write of the key is under way, or has ended this multipart upload."""
RANGE_BEHIND_THE_END = {"InvalidRange", "416"}
ALREADY_DELETED = {"NoSuchKey"}

# Codes of S3 after which the request is sent again.
THROTTLED = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"}
THROTTLED |= {"RequestLimitExceeded", "BandwidthLimitExceeded"}
BROKEN_ON_THE_WAY = {"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout"}
"""The request did not arrive as it was sent."""


class S3ClientError(OSError):
    """The client cannot make or send a request: no credentials, or an impossible bucket name, endpoint or region."""


def s3_code(error: BaseException) -> str:
    """The store's code of a failure, "" if there is none. s3fs attaches the client's error as cause or as context."""
    response = getattr(error.__cause__ or error.__context__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextlib.contextmanager
def explained(verb: str, what: str) -> Iterator[None]:
    """Raise errors of file systems and S3 clients as StorageError: "Cannot <verb> <what>: <cause>; <what to do>".

    A file or an object that does not exist becomes ObjectNotFound.
    """
    try:
        yield
    except OSError as error:
        raise _explain(error, verb, what) from error
    except ValueError as error:
        if not is_s3(what):
            raise
        raise _explain(S3ClientError(str(error)), verb, what) from error  # s3fs: an impossible bucket name or path


def _explain(error: OSError, verb: str, what: str) -> StorageError:
    codes = [s3_code(error), _code(error)]
    kind, text = next((_CAUSES[code] for code in codes if code in _CAUSES), (StorageError, "{error}"))
    access = "the credentials, the bucket policy and the endpoint" if is_s3(what) else "its permissions"
    return kind(f"Cannot {verb} {what}: {text.format(error=error, access=access)}")


def _code(error: OSError) -> int | str:
    if isinstance(error, S3ClientError):
        return "S3 client"
    return error.errno or next((code for kind, code in _ERRNO_OF.items() if isinstance(error, kind)), 0)
