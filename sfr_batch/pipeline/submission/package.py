"""What is sent to a cluster: a config, the file that a job begins with, and this package unless its nodes have it.

One zip, which Ray unpacks on every node. The same content gives the same bytes, so that it is sent once. Nothing of the
working directory is in it, no value of a `${NAME}`, and of this package only what an installation has. Knows no Ray.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.format.library_versions import installed
from sfr_batch.storage.local_files import read_bytes, walk

MOST_BYTES = 8 * 2**20
"""Largest zip that is sent: this package takes about an eighth of it."""
CONFIG, FIRST = "config.yaml", "embed.py"
_PACKAGE = Path(__file__).parents[2]
_FIRST_FILE = _PACKAGE / "cli" / "submitted.py"
_KINDS = (".py", ".yaml", ".md", ".typed")
"""Files of an installation of this package."""
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """What is sent."""

    data: bytes
    """The zip."""
    version: str
    """Of this package, which the job must find; empty if it is not known."""

    @property
    def digest(self) -> str:
        """40 hexadecimal digits, the same for the same content and command."""
        return hashlib.sha256(self.entrypoint.encode() + b"\0" + self.data).hexdigest()[:40]

    @property
    def uri(self) -> str:
        """The name under which Ray keeps it."""
        return f"gcs://_ray_pkg_{self.digest}.zip"

    @property
    def entrypoint(self) -> str:
        """The command of the job, in the folder of what was sent."""
        return f"python {FIRST} {self.version or '-'} {CONFIG}"


def pack(config: Config, *, code: bool) -> Package:
    """What is sent for a run with this config. code: with this package. Raises ConfigError if that is too large."""
    version = installed(["sfr-batch"]).get("sfr-batch", "")
    files = {CONFIG: _as_yaml(config), FIRST: read_bytes(_FIRST_FILE)}
    if code:
        files |= dict(_own_files(version))
    data = _zipped(files)
    if len(data) > MOST_BYTES:
        raise ConfigError(_too_large(config, files, len(data)))
    return Package(data, version)


def _as_yaml(config: Config) -> bytes:
    """All settings with their values, so that defaults of another release do not change them."""
    return yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True, sort_keys=False).encode()


def _own_files(version: str) -> Iterator[tuple[str, bytes]]:
    """This package, and the metadata by which Python knows its version."""
    found = walk(str(_PACKAGE), lambda path: path.endswith(_KINDS), lambda path: not Path(path).name.startswith("."))
    for path, _ in found:
        yield f"sfr_batch/{Path(path).relative_to(_PACKAGE).as_posix()}", read_bytes(Path(path))
    if version:
        metadata = f"Metadata-Version: 2.1\nName: sfr-batch\nVersion: {version}\n"
        yield f"sfr_batch-{version}.dist-info/METADATA", metadata.encode()


def _zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[name])
    return sink.getvalue()


def _too_large(config: Config, files: dict[str, bytes], size: int) -> str:
    limit = f"{MOST_BYTES / 2**20:.0f} MiB"
    if len(files[CONFIG]) > MOST_BYTES / 2:
        sizes = {
            f"{section}.{name}": len(str(value))
            for section, values in config.model_dump(mode="json").items()
            for name, value in values.items()
        }
        largest = max(sizes, key=lambda name: sizes[name])
        return (
            f"What would be sent has {size / 2**20:.1f} MiB, more than {limit}, and most of it is {largest}. Select "
            "rows by select.where or select.shards, or split the backfill."
        )
    name = max(files, key=lambda name: len(files[name]))
    return (
        f"What would be sent has {size / 2**20:.1f} MiB, more than {limit}. The largest file is "
        f"{_PACKAGE.parent / name}. Remove what does not belong to sfr-batch from {_PACKAGE}, or install sfr-batch in "
        "the image of the cluster and send the config alone: --installed."
    )
