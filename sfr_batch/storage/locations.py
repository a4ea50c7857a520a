"""What a location in a config or on the command line means: an s3:// URI, a local path, or a mistake.

The same path is written in many ways, and some of them would silently mean a local folder of an odd name: pathlib makes
`s3:/bucket` of `s3://bucket`, Java prints `file:/x`, Windows has `C:\\x`. Knows no stores; opens nothing, and only asks
the local disk whether a name exists.
"""

import os
import re
from urllib.parse import unquote

from sfr_batch.errors import ConfigError

_S3 = ("s3", "s3a", "s3n")
_OTHERS = (
    *("gs", "gcs", "hdfs", "webhdfs", "viewfs", "har", "abfs", "abfss", "wasb", "wasbs", "adl", "az", "azure", "hf"),
    *("http", "https", "ftp", "sftp", "ssh", "scp", "oss", "oci", "cos", "cosn", "obs", "tos", "ks3", "r2", "b2"),
    *("minio", "alluxio", "swift", "memory", "mlflow", "models", "runs"),
)
"""Schemes of other stores. One slash after them is enough to be sure that no local folder is meant."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", re.DOTALL)
_LOST_SCHEME = re.compile(r"(.*/)?(s3[an]?):/+(.*)", re.DOTALL)
_ALMOST_S3 = re.compile(r"\s*[\"']?s3[an]?\s*[:;.]*\s*//+(.*)", re.DOTALL | re.IGNORECASE)
_QUOTES = " \t\"'"
_DRIVE = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]\w*")


Location = str | os.PathLike[str]
"""A path or URI as a caller has it: notebooks have pathlib's paths."""


def is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


def absolute_uri(path: Location) -> str:
    """An s3:// URI without a trailing slash, or an absolute local path. Raises ConfigError."""
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"A path is of the type {type(path).__name__}. Give a folder, or a text s3://bucket/prefix.")
    path = os.fspath(path)
    if not is_s3(path):
        return local_path(path)
    inside = path.split("://", 1)[1].strip("/")
    if "@" in inside.split("/")[0]:
        raise ConfigError(
            "An s3:// path has credentials before its bucket. Remove them: credentials come from the AWS chain or "
            "from the section's storage settings."
        )
    if not inside:
        raise ConfigError(f"{path} names no bucket; write s3://bucket/prefix.")
    return f"s3://{inside}"


def where_relative(path: str) -> tuple[str, str]:
    """For messages about a path at which nothing is: ` at` its absolute place, and a word about relative paths.

    Both are empty unless ``path`` is a relative local one. Raises ConfigError.
    """
    if is_s3(path) or path.startswith(("/", "~", "file:")):
        return "", ""
    rule = "relative paths begin in the working directory, which for a submitted job is the folder uploaded with it"
    return f" at {local_path(path)}", rule


def local_path(path: str) -> str:
    """The absolute local path that is meant. Raises ConfigError if none is, with the form to write instead."""
    lost = _LOST_SCHEME.fullmatch(path)
    if lost and lost[1] and path.startswith("/") and not os.path.lexists(f"{lost[1]}{lost[2]}:"):
        raise ConfigError(
            f"{path}: pathlib or abspath has made this of an S3 path. Write s3://{lost[3] or 'bucket/prefix'}. For a "
            f"local folder of that name make {lost[1]}{lost[2]}: first."
        )
    if path.startswith("/"):
        return os.path.abspath(path)
    scheme = _SCHEME.fullmatch(path)
    if scheme and scheme[1].lower() == "file":
        return _of_file_uri(path, *scheme.groups()[1:])
    mistake = _of_scheme(path, *scheme.groups()) if scheme else _of_windows(path)
    almost = None if mistake or os.path.lexists(path.split("/")[0]) else _ALMOST_S3.fullmatch(path)
    if almost:
        mistake = f"an S3 path begins with s3://, without blanks or quotes. Write s3://{almost[1].strip(_QUOTES)}."
    if mistake is None and path.startswith("~") and os.path.expanduser(path) == path:
        mistake = f"there is no user {path[1:].split('/')[0]} on this machine. Write the whole path."
    if mistake is None and _VARIABLE.match(path) and not os.path.lexists(path):
        mistake = "variables are not expanded here. Write the path itself, or let the shell expand it: double quotes."
    if mistake:
        same = f" For the local folder of that name write ./{path}." if os.path.lexists(path) else ""
        raise ConfigError(f"{path}: {mistake}{same}")
    return os.path.abspath(os.path.expanduser(path))


def _of_file_uri(path: str, slashes: str, rest: str) -> str:
    """The path of a file: URI: file:/x as Java prints it, file:///x, file://localhost/x, or file://~/x."""
    if len(slashes) == 2:
        host, slash, below = rest.partition("/")
        if host in ("", "localhost") and slash:
            return _existing(path, f"/{below}")
        if host not in ("", "~", ".", ".."):
            raise ConfigError(f"{path}: a file:// path has three slashes. Write /{rest}, or ./{rest} if relative.")
        return os.path.abspath(os.path.expanduser(rest))
    if not slashes:
        raise ConfigError(f"{path}: a file: path begins with a slash. Write /{rest}, or ./{rest} if relative.")
    return _existing(path, f"/{rest}")


def _existing(path: str, plain: str) -> str:
    """``plain`` as it stands in a file: URI, unless it is unclear whether its percent escapes are meant."""
    if unquote(plain) != plain and not os.path.lexists(plain):
        raise ConfigError(f"{path} has percent escapes. Write the plain path: {unquote(plain)}.")
    return os.path.abspath(plain)


def _of_scheme(path: str, scheme: str, slashes: str, rest: str) -> str | None:
    """What is wrong with a path that begins with a scheme; None if it is a local name with a colon."""
    kind = scheme.lower()
    if kind in _S3:
        return f"an S3 path begins with s3:// in lower case, two slashes. Write s3://{rest or 'bucket/prefix'}."
    if kind == "arn" and rest.startswith("aws") and ":::" in rest:
        return f"this is an ARN. Write s3://{rest.split(':::', 1)[1]}."
    if kind == "dbfs":
        local = f"/{rest}" if rest.startswith("Volumes/") else f"/dbfs/{rest}"
        return f"dbfs: is a scheme of Databricks. Write the local path that its machines have: {local}."
    if len(slashes) >= 2 or (slashes and kind in _OTHERS):
        return f"the scheme {scheme}:// is not supported; use s3:// or a local path."
    return None


def _of_windows(path: str) -> str | None:
    """What is wrong with a path that is written as on Windows; None if it is not."""
    drive = _DRIVE.fullmatch(path)
    if drive:
        unix = f"/mnt/{drive[1].lower()}/{drive[2].replace(chr(92), '/')}"
        return f"this is a Windows path, and this machine runs Linux. Under WSL it is {unix}; else mount the drive."
    if path.startswith("\\\\"):
        return "this is a Windows share, and this machine runs Linux. Mount it, and write the path where it is mounted."
    if "\\" in path and not os.path.lexists(path):
        return f"the separator of folders is / and not \\. Write {path.replace(chr(92), '/')}."
    return None
