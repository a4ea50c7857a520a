"""The files of an Iceberg table for pyiceberg: every read of the library goes through the store's own client.

Imports pyiceberg, so only functions that need it may import this.
"""

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
from pyiceberg.table.puffin import PuffinFile

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.table_files import located
from sfr_batch.errors import ObjectNotFound
from sfr_batch.storage.inputs import open_input, stat_input


class ReadOnlyFiles(FileIO):  # type: ignore[misc]  # its types are not followed
    """Reads metadata and manifests; writes nothing."""

    def __init__(self, metadata: str, storage: StorageSettings) -> None:
        """metadata: URI of the table's metadata file."""
        super().__init__()
        self._metadata, self._storage = metadata, storage

    def new_input(self, location: str) -> InputFile:
        return _File(location, located(location, "The Iceberg table", self._metadata), self._storage)

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError("a corpus is only read")

    def delete(self, location: Any) -> None:
        raise NotImplementedError("a corpus is only read")


class _File(InputFile):  # type: ignore[misc]
    def __init__(self, location: str, uri: str, storage: StorageSettings) -> None:
        super().__init__(location)
        self._uri, self._storage = uri, storage

    def __len__(self) -> int:
        return stat_input(self._uri, self._storage).size

    def exists(self) -> bool:
        try:
            stat_input(self._uri, self._storage)
        except ObjectNotFound:
            return False
        return True

    def open(self, seekable: bool = True) -> InputStream:
        return open_input(self._uri, self._storage)


def puffin_positions(file: IO[bytes], path: str) -> NDArray[np.int64]:
    """Positions of the rows that the deletion vectors in a Puffin file delete in the data file at ``path``."""
    vectors = [
        vector
        for vector in deletion_vectors_from_puffin_file(PuffinFile(file.read()))
        if vector.referenced_data_file == path
    ]
    return np.array([position for vector in vectors for position in vector.to_vector().to_pylist()], np.int64)
