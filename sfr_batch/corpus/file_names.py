"""What the name of a file says that is no shard by its ending: a marker of an engine, data that cannot be read, data
whose format the name does not tell, or none of these. What the first bytes say, where a name does not.

Knows names and first bytes; opens nothing.
"""

import re
from collections.abc import Sequence

from sfr_batch.corpus.file_formats import COMPRESSIONS, PARQUET, bare_name, format_of
from sfr_batch.errors import CorpusError

_UNREADABLE = (
    *(".bz2", ".xz", ".lzma", ".lz", ".lz4", ".lzo", ".snappy", ".sz", ".br", ".brotli", ".z", ".deflate"),
    *(".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz"),
    *(".avro", ".orc", ".arrow", ".arrows", ".ipc", ".feather", ".lance", ".xlsx", ".xls", ".ods"),
)
"""Endings of files that hold documents in a form that is not supported."""
_MARKER = re.compile(
    r"_success.*|_started_.*|_committed_.*|_common_metadata|_metadata|.*\.crc|.*\$folder\$|\.ds_store|\._.*|\.nfs.*"
    r"|thumbs\.db|desktop\.ini|(md5|sha\d+)sums?(\.txt)?|.*\.(md5|sha1|sha256|sha512)|\.git(attributes|ignore|keep)"
    r"|\.keep|.*\.csv\.metadata"
)
"""Files that engines, systems and tools put beside data: to speak of them every night would hide what matters."""
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BY_ENGINES = re.compile(
    r"\d{6}_\d+.*"  # Hive, and Trino for its buckets
    r"|bucket_\d+.*"
    r"|part-.*"  # Spark, Hadoop, Pig, Flink
    r"|.*\d{4}_part_\d+"  # Redshift
    r"|data_\d+_\d+_\d+"  # Snowflake
    r"|.*\d{12}"  # BigQuery
    r"|.*_data\.\d+\.?"  # Impala
    r"|.*-\d+-of-\d+"  # Beam
    r"|x[a-z]{2,4}"  # split
    rf"|.*{_UUID}.*"  # Trino, Athena, Firehose
)
"""Names without an ending that tells the format, as engines give them."""
_MAGIC = {
    b"PAR1": PARQUET,
    b"PARE": "encrypted Parquet",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1": "Arrow IPC",
    b"FEA1": "Feather",
}
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")
MAGIC_BYTES = 64
"""Bytes of a file that tell what it is: the mark, and behind it what no text has. Texts begin with ORCID and PARENT."""
COMPRESSED = {
    b"\x1f\x8b": ("gzip", ".gz", "gunzip"),
    b"\x28\xb5\x2f\xfd": ("zstd", ".zst", "unzstd"),
    b"BZh": ("bzip2", ".bz2", "bunzip2"),
    b"\xfd7zXZ": ("xz", ".xz", "unxz"),
    b"PK\x03\x04": ("zip", ".zip", "unzip"),
}
"""By its first bytes, how a file is compressed as a whole, the ending that says so, and the program that unpacks it."""
_SET_ASIDE = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", "._copying_", ".bak", ".orig", "~")
"""Endings of files that are being written, or were put aside: a whole Parquet file among them is no document's."""


def is_marker(uri: str, size: int) -> bool:
    """Whether a file that is no shard is none for everybody: a marker, or without a byte and an ending of data."""
    name = _last(uri)
    return bool(_MARKER.fullmatch(name)) or (not size and format_of(uri)[0] is None and not is_unreadable(uri))


def is_unreadable(uri: str) -> bool:
    """Whether a file holds documents, by its name, in a form that is not supported."""
    name = _last(uri)
    return name.endswith(_UNREADABLE) or bare_name(name)[0].endswith(_UNREADABLE)


def is_set_aside(uri: str) -> bool:
    """Whether the name of a file says that it is being written, or is kept as it was before."""
    return _last(uri).endswith(_SET_ASIDE)


def is_unclear(uri: str) -> bool:
    """Whether a file holds documents, by its name, in a format that the name does not tell."""
    name = _last(uri)
    if format_of(uri)[0] is not None:
        return False
    return name.endswith(tuple(COMPRESSIONS)) or bool(_BY_ENGINES.fullmatch(name))


def was_passed_over(uri: str, below: str) -> bool:
    """Whether releases that knew fewer names passed over a shard without a word. below: its path below corpus.path."""
    name = _last(uri)
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    if any(folder.startswith("_") for folder in below.split("/")[:-1]):
        return True
    return not name.removesuffix(compression).endswith(_FIRST_ENDINGS) and not name.endswith(_FIRST_REFUSED)


_FIRST_ENDINGS = (".parquet", ".pq", ".jsonl", ".ndjson", ".jsonlines", ".csv", ".tsv", ".tab", ".txt")
_FIRST_REFUSED = (".json", *COMPRESSIONS)


def by_first_bytes(data: bytes) -> str:
    """The format that a file begins as, if it is one with a mark of its own: "parquet", or a name for people."""
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
    return kind if _BINARY.search(data[:MAGIC_BYTES]) else ""


def refuse_other_kind(data: bytes, uri: str) -> None:
    """Raises CorpusError if a file whose name says lines is something else, by its first bytes, or stands for a file
    that is elsewhere."""
    kind = by_first_bytes(data)
    if kind == PARQUET:
        raise CorpusError(f"{uri} is a Parquet file with another ending. Rename it to .parquet.")
    if kind:
        raise CorpusError(f"{uri} is {kind}, whatever its name says, which is not supported. Convert it.")
    for magic, (how, ending, program) in COMPRESSED.items():
        if data.startswith(magic):
            rename = f"rename it to {_bare(uri)}{ending}, or " if ending in COMPRESSIONS else ""
            raise CorpusError(
                f"{uri} is compressed by {how}, which its name does not say: {rename}unpack it ({program})."
            )
    refuse_pointer(data, uri)


def refuse_pointer(data: bytes, uri: str) -> None:
    """Raises CorpusError if a file is only the pointer that git keeps in the place of a large file."""
    if data.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CorpusError(f"{uri} is a pointer of Git LFS rather than the file itself. Fetch the file: git lfs pull.")


def _bare(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]


def shape_of(uri: str) -> str:
    """What the names of files that one engine has written in one go have in common."""
    name = re.sub(_UUID, "U", uri.rsplit("/", 1)[-1].lower())
    return re.sub(r"\d+", "0", re.sub(r"[0-9a-f]{8,}", "H", name))


def samples_of(uris: Sequence[str], at_most: int) -> list[str]:
    """A first and a last file of each shape of name, of at most so many shapes."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    for uri in uris:
        shape = shape_of(uri)
        first.setdefault(shape, uri)
        last[shape] = uri
    return list(dict.fromkeys(uri for shape in list(first)[:at_most] for uri in (first[shape], last[shape])))


def _last(uri: str) -> str:
    return uri.rsplit("/", 1)[-1].lower()
