"""The S3 client: s3fs, but every request goes through `retries.retry`, the only place that repeats anything.

s3fs and botocore each try once. What is repeated is one request: one page of a listing, one part of an upload, one
range with its body, whose length is checked before anyone reads it. (aiohttp, below them, immediately resends an
idempotent request if its kept-alive connection turns out to be closed.) Importing this loads the clients, which takes a
second: `s3` imports it when the first s3:// URI is opened.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import botocore.exceptions as client
import botocore.session
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from sfr_batch.errors import ConfigError
from sfr_batch.storage.failures import (
    BROKEN_ON_THE_WAY,
    PRECONDITION_FAILED,
    THROTTLED,
    S3ClientError,
    refuses_checksums,
    s3_code,
)
from sfr_batch.storage.retries import Bounds, retry

_ABORT_ATTEMPTS = 2
_WHEN_REQUIRED = "when_required"
_WITHOUT_CHECKSUMS = {"request_checksum_calculation": _WHEN_REQUIRED, "response_checksum_validation": _WHEN_REQUIRED}

_log = logging.getLogger(__name__)


class Chain(NamedTuple):
    """What the AWS chain gives: region and keys, None where it has none."""

    region: str | None
    access_key: str | None
    secret_key: str | None
    token: str | None


def chain_of(profile: str | None) -> Chain:
    """What the AWS chain gives a client that is not ours. Raises ConfigError if there is no such profile."""
    session = botocore.session.Session(profile=profile)
    try:
        region, found = session.get_config_variable("region"), session.get_credentials()
    except client.ProfileNotFound as error:
        raise ConfigError(f"storage.profile: {error}. Correct it, or add the profile.") from error
    keys = found.get_frozen_credentials() if found else None
    return Chain(region or os.environ.get("AWS_REGION"), *(keys or (None, None, None))[:3])


class Truncated(Exception):
    """A body has another length than its headers say."""


class RetryingS3(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """``options``: of S3FileSystem; they must configure the client to try once. Raises S3ClientError, else OSError."""

    retries = 1

    def __init__(self, bounds: Bounds, **options: Any) -> None:
        super().__init__(**options)
        self.config_kwargs: dict[str, Any]
        self._bounds = bounds

    async def _call_s3(self, method: str, *parameters: Any, **named: Any) -> Any:
        bounds = self._bounds
        if method == "abort_multipart_upload":
            bounds = dataclasses.replace(bounds, attempts=min(bounds.attempts, _ABORT_ATTEMPTS))

        without = False

        async def once() -> Any:
            nonlocal without
            await self.set_session()
            without = self._without_checksums
            answer = await super(RetryingS3, self)._call_s3(method, *parameters, **named)
            if method == "get_object":
                answer["Body"] = _Body(await _read(answer, named.get("Range")))
            return answer

        what = f"{method} s3://{'/'.join(str(named[part]) for part in ('Bucket', 'Key', 'Prefix') if part in named)}"
        try:
            try:
                return await retry(once, bounds, transient_reason, what)
            except OSError as error:
                if "IfMatch" in named and s3_code(error) in PRECONDITION_FAILED and await self._is_still(**named):
                    named.pop("IfMatch")  # a store whose GET knows another ETag than its HEAD
                elif without or not refuses_checksums(error):
                    raise
                else:
                    await self._leave_checksums_out(f"{what}: {str(error).rstrip('.')}")
                return await retry(once, bounds, transient_reason, what)
        except (client.BotoCoreError, aiohttp.ClientError, ValueError) as error:
            raise S3ClientError(str(error)) from error

    call_s3 = sync_wrapper(_call_s3)  # the inherited one is bound to the inherited method

    async def _is_still(self, *, Bucket: str, Key: str, IfMatch: str, **_: Any) -> bool:  # as the client names them
        """Whether a HEAD gives the ETag that a GET did not meet."""
        return bool((await self._call_s3("head_object", Bucket=Bucket, Key=Key)).get("ETag") == IfMatch)

    @property
    def _without_checksums(self) -> bool:
        """Whether the client sends checksums only where the protocol requires them: the variable
        AWS_REQUEST_CHECKSUM_CALCULATION or the profile says so, or a store has refused them."""
        chosen = self.config_kwargs.get("request_checksum_calculation")
        if chosen is None and self._s3 is not None:
            chosen = self._s3.meta.config.request_checksum_calculation
        return chosen == _WHEN_REQUIRED

    async def _leave_checksums_out(self, why: str) -> None:
        """Go on with another client, for all requests of this process to this store."""
        if self._without_checksums:
            return  # another request was refused at the same time
        self.config_kwargs = {**self.config_kwargs, **_WITHOUT_CHECKSUMS}
        await self.set_session(refresh=True)
        _log.warning(
            "%s. The store may not know the checksums that S3 clients add: from here on they are left out. To spare "
            "the try, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required.",
            why,
        )

    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        # The error that led here is raised, not this one. Parts left behind cost space until a lifecycle rule ends it.
        with contextlib.suppress(OSError):
            await super()._abort_mpu(bucket, key, mpu)


class _Body:
    """A body that was read already, with the interface of one that was not."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self) -> bytes:
        return self.data

    def close(self) -> None:
        pass


async def _read(answer: Mapping[str, Any], asked: str | None) -> bytes:
    body = answer["Body"]
    try:
        data: bytes = await body.read()
    finally:
        body.close()
    check_length(len(data), answer.get("ContentLength"), asked, answer.get("ContentRange"))
    return data


def check_length(length: int, content_length: int | None, asked: str | None, content_range: str | None) -> None:
    """Raises Truncated if ``length`` is not what the headers say, or the range not the one that was ``asked`` for.

    asked: the Range header of the request, ``bytes=2-5`` or ``bytes=2-``; content_range: the Content-Range of the
    answer, ``bytes 2-5/100``, see RFC 9110, 14.4. A range may end behind the end of the object.
    """
    if content_length is not None and length != content_length:
        raise Truncated(f"{length:,} bytes instead of {content_length:,}")
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if not wanted:
        return
    start, end = int(wanted[1]), int(wanted[2]) if wanted[2] else None
    got = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range or "")
    if got:
        total = int(got[3])
        last = total - 1 if end is None else min(end, total - 1)
        if (int(got[1]), int(got[2])) != (start, last) or length != last - start + 1:
            raise Truncated(f"{length:,} bytes as {content_range} for {asked}")
    elif start or (end is not None and length > end + 1):
        raise Truncated(f"{length:,} bytes without Content-Range for {asked}")


def transient_reason(error: Exception) -> str | None:
    """Why a failure is transient, in a word or two; None if it is permanent."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in THROTTLED or status in (429, 503):
            return "throttled"
        if code in BROKEN_ON_THE_WAY:
            return "broken on the way"
        return "server error" if status >= 500 and status != 501 else None
    inner = getattr(error, "kwargs", {}).get("error")  # the cause, as botocore passes it on
    if isinstance(error, client.SSLError):  # a wrong certificate stays wrong; a handshake may be cut off
        return "connection" if "EOF" in str(error) else None
    if isinstance(error, client.ReadTimeoutError | client.ConnectTimeoutError | asyncio.TimeoutError):
        return "timeout"
    if isinstance(error, client.FlexibleChecksumError):
        return "wrong checksum"
    cut = (Truncated, client.IncompleteReadError, client.ResponseStreamingError, aiohttp.ClientPayloadError)
    if isinstance(error, (*cut, ResponseParserError)) or isinstance(inner, cut):
        return "truncated"
    broken = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)
    if isinstance(error, aiohttp.InvalidURL) or isinstance(inner, aiohttp.InvalidURL):
        return None
    if isinstance(error, (client.ConnectionError, client.ConnectionClosedError, *broken)) or isinstance(inner, broken):
        return "connection"
    return None
