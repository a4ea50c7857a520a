"""Finds out whether an S3 store obeys `If-None-Match: *`, on which all guarantees of a table rest.

A store that ignores it tells both writers of a name that they won. It says nothing of that, so only trying shows it: an
object is created, and then everything is tried that must not replace it. Knows no tables; the caller chooses the keys.
"""

import contextlib

from sfr_batch.errors import ObjectNotFound, StorageError
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Store


def check_conditional_writes(store: Store, target: str, proof: str, *, multipart: bool = True) -> None:
    """Try it once, unless an object ``proof`` says that somebody has. Does nothing on other stores than S3.

    target: key of the object that is tried with. It stays, like the proof. A process that dies at any moment leaves
    nothing that misleads the next one: the proof comes last, and a store that answers 412 where the object exists
    already has passed as well. multipart: whether the completion of an upload in parts is tried, too.

    Raises StorageError; then neither object is left.
    """
    if not isinstance(store, S3Store):
        return
    with contextlib.suppress(ObjectNotFound):
        store.read(proof)
        return
    if store.create(target, b"first\n") and store.create(target, b"second\n"):
        way = "Write the table to a store with conditional writes, such as AWS S3, or to a local disk."
        _refuse(store, target, "it lets a second writer replace a file", way)
    if multipart and not store.completes_conditionally(target):
        way = "Set table.storage.multipart: false, so that each file is uploaded by one request."
        _refuse(store, target, "the completion of an upload in parts replaces a file", way)
    store.create(proof, b"This store obeys If-None-Match.\n")


def _refuse(store: S3Store, target: str, what: str, way: str) -> None:
    with contextlib.suppress(StorageError):
        store.delete([target])
    raise StorageError(
        f"The store of {store.root} ignores If-None-Match: {what}. Two runs at once would destroy each other's work "
        f"without noticing. {way}"
    )
