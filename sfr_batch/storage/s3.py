"""`Store` on S3: creates objects by conditional PUT. Also the file system that `inputs` reads through."""

import contextlib
import functools
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import IO, Any, cast

from sfr_batch.config.settings import CREDENTIALS_IN_ENDPOINT, StorageSettings, secret
from sfr_batch.errors import ConfigError, StorageError
from sfr_batch.storage.failures import (
    ALREADY_DELETED,
    KEY_IS_TAKEN,
    RANGE_BEHIND_THE_END,
    WRITE_UNDER_WAY,
    explained,
    refuses_checksums,
    s3_code,
)
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.parallel import PARALLEL_READS, in_parallel
from sfr_batch.storage.ranges import Ranges
from sfr_batch.storage.retries import Bounds
from sfr_batch.storage.store import Content, ObjectInfo, path_parts, whole
from sfr_batch.storage.versions import etag_of, is_weak

# The client tries once: only `storage.retries` repeats. Both timeouts are of silence, not of a whole transfer.
_CLIENT = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "retries": {"mode": "standard", "total_max_attempts": 1},
    "max_pool_connections": PARALLEL_READS,
}
_PART = 50 * 2**20  # an object of two parts and more is uploaded in parts
_PARALLEL_PARTS = 4  # what a multipart upload holds in memory beside the object
_LARGEST_PUT = 5 * 2**30
_CONFLICT_ATTEMPTS = 5
_DELETE_BATCH = 1000  # the most that one DeleteObjects request may name


def filesystem(uri: str, settings: StorageSettings) -> Any:
    """The fsspec file system for ``uri``. Listings are never cached: a stale listing would break resuming."""
    if not is_s3(uri):
        import fsspec  # takes long to load, which commands on local paths do not need

        return fsspec.filesystem("file")
    from sfr_batch.storage.s3_client import RetryingS3  # loads the clients, which local paths do not need

    options: dict[str, Any] = {"anon": settings.anonymous, "use_listings_cache": False, "config_kwargs": _CLIENT}
    endpoint = endpoint_of(settings)
    if endpoint:
        if "@" in endpoint:
            raise ConfigError(CREDENTIALS_IN_ENDPOINT)
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"The S3 endpoint {endpoint} (storage.endpoint_url, AWS_ENDPOINT_URL) has no scheme; write "
                f"http://{endpoint} or https://{endpoint}."
            )
        options["endpoint_url"] = endpoint
    if settings.requester_pays:
        options["requester_pays"] = True
    if settings.region:
        options["client_kwargs"] = {"region_name": settings.region}
    if settings.profile:
        options["profile"] = settings.profile
    if settings.access_key_id:
        options["key"], options["secret"] = secret(settings.access_key_id), secret(settings.secret_access_key)
    return RetryingS3(bounds=Bounds(settings.attempts, settings.give_up_after_s), **options)


def endpoint_of(settings: StorageSettings) -> str | None:
    """The endpoint that the settings or the environment name; None for AWS."""
    return settings.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


class S3Store:
    """A prefix in a bucket. `create` is a PUT, or the completion of a multipart upload, with `If-None-Match: *`."""

    def __init__(self, root: str, settings: StorageSettings) -> None:
        self.root = absolute_uri(root)
        self._settings = settings
        self._fs = filesystem(self.root, settings)
        self._part = _PART if settings.multipart else _LARGEST_PUT

    def __repr__(self) -> str:
        return f"<S3Store {self.root}>"

    def filesystem(self) -> Any:
        """The fsspec file system, with the retries and the keys of this store, for libraries that read through one."""
        return self._fs

    @property
    def endpoint_url(self) -> str | None:
        """URL of the store; None for AWS."""
        return endpoint_of(self._settings)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled client would carry the keys in clear and lose its retry settings; the settings only name the keys.
        return S3Store, (self.root, self._settings)

    def _path(self, key: str) -> str:
        return f"{self.root.removeprefix('s3://')}/{'/'.join(path_parts(self.root, key))}"

    def create(self, key: str, data: Content) -> bool:
        """As `Store.create`, by a PUT with `If-None-Match: *`."""
        data = whole(data)
        with explained("write", f"{self.root}/{key}"):
            for attempt in range(_CONFLICT_ATTEMPTS):
                try:
                    self._fs.pipe_file(
                        self._path(key), data, mode="create", chunksize=self._part, max_concurrency=_PARALLEL_PARTS
                    )
                    return True
                except OSError as error:
                    code = s3_code(error)
                    if code in KEY_IS_TAKEN or isinstance(error, FileExistsError):
                        return False
                    # AWS answers 409 while another conditional write of the same key is under way: ask again, for a
                    # multipart upload from its beginning. An upload is gone when it was completed and the reply was
                    # lost, then beginning again finds its object; or when somebody aborted it.
                    if code not in WRITE_UNDER_WAY or attempt == _CONFLICT_ATTEMPTS - 1:
                        raise
                    time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    def completes_conditionally(self, key: str) -> bool:
        """Whether an upload in parts that is completed with `If-None-Match: *` leaves the object alone that exists."""
        bucket, name = self._path(key).split("/", 1)
        with explained("write", f"{self.root}/{key}"):
            upload = {"Bucket": bucket, "Key": name}
            upload["UploadId"] = self._fs.call_s3("create_multipart_upload", **upload)["UploadId"]
            try:
                tag = self._fs.call_s3("upload_part", PartNumber=1, Body=b"part\n", **upload)["ETag"]
                parts = {"Parts": [{"PartNumber": 1, "ETag": tag}]}
                self._fs.call_s3("complete_multipart_upload", MultipartUpload=parts, IfNoneMatch="*", **upload)
                return False
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._fs.call_s3("abort_multipart_upload", **upload)
                if s3_code(error) not in KEY_IS_TAKEN | WRITE_UNDER_WAY:
                    raise
                return True

    def read(self, key: str) -> bytes:
        with explained("read", f"{self.root}/{key}"):
            # One request, no HEAD before it; and a whole body is checked against its checksum, a range is not.
            return bytes(self._fs.cat_file(self._path(key), max_concurrency=1))

    def open(self, key: str, size: int = 0) -> IO[bytes]:
        uri = f"s3://{self._path(key)}"
        if size:
            return cast("IO[bytes]", Ranges(functools.partial(read_range, self._fs, uri), size))
        return open_s3(self._fs, uri, block_size=4 * 2**20)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As `Store.list`, by ListObjectsV2."""
        start = len(self._path(""))
        folder = self._path(prefix.rstrip("/")).rstrip("/") + "/"
        with explained("list", f"{self.root}/{prefix}"):
            found = self._fs.find(folder, detail=True)
        for path, info in found.items():
            # s3fs also answers with an object that has the very name of the folder, and with the empty objects that
            # consoles make to show a folder.
            if path.startswith(folder) and not path.endswith("/"):
                modified = info.get("LastModified")
                yield ObjectInfo(path[start:], int(info["size"]), modified.timestamp() if modified else 0.0)

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`, up to 1,000 keys a request."""
        # Not fs.rm: it takes names for patterns and folders, and ignores keys that the store refused to delete.
        bucket = self._path("").split("/", 1)[0]
        names = [self._path(key).split("/", 1)[1] for key in keys]
        for start in range(0, len(names), _DELETE_BATCH):
            with explained("delete from", self.root):
                objects = [{"Key": name} for name in names[start : start + _DELETE_BATCH]]
                answer = self._delete(bucket, objects)
            refused = [error for error in answer.get("Errors", ()) if error.get("Code") not in ALREADY_DELETED]
            if refused:
                first = refused[0]
                raise StorageError(
                    f"Cannot delete {len(refused)} of {len(objects)} objects in {self.root}, the first is "
                    f"s3://{bucket}/{first.get('Key')}: {first.get('Code')} {first.get('Message', '')}; "
                    "check that the credentials may delete, and run the command again."
                )

    def clock(self) -> float:
        """As `Store.clock`, in whole seconds: when the store answers, as it says itself."""
        bucket, prefix = self._path("").split("/", 1)
        with explained("list", self.root):
            answer = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        return parsedate_to_datetime(said).timestamp() if said else time.time()

    def _delete(self, bucket: str, objects: Sequence[dict[str, str]]) -> Any:
        try:
            return self._fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
        except OSError as error:
            # This request must have a checksum. Older stores want it as Content-MD5, which the client no longer sends,
            # and some know no such request.
            if not refuses_checksums(error):
                raise

        def one(named: dict[str, str]) -> None:
            self._fs.call_s3("delete_object", Bucket=bucket, **named)

        for _ in in_parallel(one, objects, PARALLEL_READS):
            pass
        return {}


def read_range(fs: Any, uri: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a file or an object; fewer where it ends. Raises ObjectNotFound."""
    with explained("read", uri):
        try:
            return bytes(fs.cat_file(uri.removeprefix("s3://"), start=start, end=end))
        except OSError as error:
            if s3_code(error) in RANGE_BEHIND_THE_END:
                return b""  # begins behind the end
            raise


class _S3Reader(io.RawIOBase):
    """An open S3 object. s3fs reads lazily, so errors of reading are explained here, beside those of opening."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with explained("read", self._uri):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_s3(fs: Any, uri: str, block_size: int) -> IO[bytes]:
    """A seekable reader over an S3 object; each read fetches ``block_size`` bytes more. Raises ObjectNotFound."""
    path = uri.removeprefix("s3://")
    with explained("read", uri):
        file = fs.open(path, "rb", cache_type="readahead", block_size=block_size)
        if file.details["type"] != "file":  # a prefix opens as an empty file
            raise FileNotFoundError("it is a folder")
        # s3fs makes the ETag a condition of each range. One that is missing or weak meets no condition.
        if (etag := etag_of(file.details)) == "" or is_weak(etag):
            file.read_kw = {name: value for name, value in file.read_kw.items() if name != "IfMatch"}
        return io.BufferedReader(_S3Reader(file, uri))
