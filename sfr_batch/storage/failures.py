"""Errors of operating systems and S3 clients as StorageErrors that say what to do, and what the codes of S3 mean.

`explained` is the one place that turns them. It knows no client: `s3_client` raises `S3ClientError` for errors that are
not the store's answer.
"""

import contextlib
import errno
import re
from collections.abc import Iterator

from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.storage.locations import is_s3

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
    "checksum": (
        StorageError,
        "the store refuses the checksum of the request, also without the newer headers, as "
        "AWS_REQUEST_CHECKSUM_CALCULATION=when_required leaves them out ({error}). Look for a proxy that changes "
        "requests on their way, and ask the store's operator which checksums it takes.",
    ),
    "not implemented": (
        StorageError,
        "the store does not implement this request ({error}). A table needs a store with conditional writes "
        "(If-None-Match), such as AWS S3; a corpus only needs to be listed and read.",
    ),
    "no credentials": (
        StorageError,
        "this process has no S3 credentials. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give "
        "the machine a role; on a cluster that holds for every node.",
    ),
    "S3 client": (StorageError, "{error}; check credentials, endpoint and region."),
}
"""Code of a failure, an errno or a code of S3, to our exception and its text. s3fs gives most codes of S3 an errno."""
_NO_CREDENTIALS = "Unable to locate credentials"
"""What botocore says then."""
_ERRNO_OF = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
"""For exceptions that s3fs and we raise without an errno."""

NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
"""Errors of `link` on a file system without hard links."""

# Codes of S3 that are an answer and no failure.
PRECONDITION_FAILED = {"PreconditionFailed", "412"}
KEY_IS_TAKEN = PRECONDITION_FAILED
WRITE_UNDER_WAY = {"ConditionalRequestConflict", "NoSuchUpload"}
"""Another conditional write of the key is under way, or has ended this multipart upload."""
RANGE_BEHIND_THE_END = {"InvalidRange", "416"}
ALREADY_DELETED = {"NoSuchKey"}
_REFUSED_TO_THE_REQUESTER = {"AccessDenied", "403"}
"""Also what buckets with Requester Pays answer to requests that do not accept it; to a HEAD without a code."""

# Codes of S3 after which the request is sent again.
THROTTLED = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests"}
THROTTLED |= {"RequestLimitExceeded", "BandwidthLimitExceeded"}
BROKEN_ON_THE_WAY = {"IncompleteBody", "BadDigest", "RequestTimeout"}
"""The request did not arrive as it was sent."""

# Codes of S3 after which the request is sent once more, without the checksums that clients have added since 2025.
_NOT_IMPLEMENTED = {"NotImplemented", "501"}
_CHECKSUM_REFUSED = {"XAmzContentSHA256Mismatch", "MissingContentMD5", "MissingContentLength", "411"}
_ABOUT_CHECKSUMS = re.compile(r"checksum|content-md5|x-amz-(content-sha256|sdk-|trailer)|aws-chunked|streaming-", re.I)
"""In the messages of stores that know no such headers, whose codes differ: InvalidArgument, InvalidRequest, …"""


class S3ClientError(OSError):
    """The client cannot make or send a request: no credentials, or an impossible bucket name, endpoint or region."""


def s3_code(error: BaseException) -> str:
    """The store's code of a failure, "" if there is none. s3fs attaches the client's error as cause or as context."""
    response = getattr(error.__cause__ or error.__context__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def refuses_checksums(error: BaseException) -> bool:
    """Whether a store may have refused a request for the checksum that it has, or for how its body is sent."""
    return _why_refused(error) in ("checksum", "not implemented")


def _why_refused(error: BaseException) -> str:
    code = s3_code(error)
    if code in _CHECKSUM_REFUSED or (code and code not in BROKEN_ON_THE_WAY and _ABOUT_CHECKSUMS.search(str(error))):
        return "checksum"
    return "not implemented" if code in _NOT_IMPLEMENTED else code


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
    codes = [_why_refused(error), _code(error)]
    kind, text = next((_CAUSES[code] for code in codes if code in _CAUSES), (StorageError, "{error}"))
    access = "the credentials, the bucket policy and the endpoint" if is_s3(what) else "its permissions"
    if verb in ("list", "read") and s3_code(error) in _REFUSED_TO_THE_REQUESTER:
        access += ", and, if who reads this bucket has to pay, storage.requester_pays"
    return kind(f"Cannot {verb} {what}: {text.format(error=error, access=access)}")


def _code(error: OSError) -> int | str:
    if isinstance(error, S3ClientError):
        return "no credentials" if str(error).startswith(_NO_CREDENTIALS) else "S3 client"
    return error.errno or next((code for kind, code in _ERRNO_OF.items() if isinstance(error, kind)), 0)
