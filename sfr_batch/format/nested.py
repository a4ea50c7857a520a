"""Takes Arrow arrays of any type apart: the items of lists, the fields of structs, the whole numbers behind decimals.

For code that must see values as they are stored, because Python's own types do not hold all of them: dates stop at the
year 9999, times at microseconds. Pure functions.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def plain(array: pa.Array) -> pa.Array:
    """The array without what only says how values are stored: dictionaries, runs, views, large offsets of texts."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return plain(pc.run_end_decode(array))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return array.cast(pa.binary())
    return array


def counts_and_items(array: pa.Array) -> tuple[list[int | None], pa.Array]:
    """Of an array of lists or maps: [n] the number of items of each, None of a null, and the items of all in a row.

    Items of a map are structs of key and value.
    """
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        valid = array.is_valid().to_pylist()
        return [kind.list_size if there else None for there in valid], array.flatten()
    if pa.types.is_map(kind):
        # Of maps, Arrow neither flattens nor counts: cut out what the offsets cover.
        offsets, null = array.offsets.to_numpy(), array.is_null().to_numpy(zero_copy_only=False)
        entries = pa.StructArray.from_arrays([array.keys, array.items], names=["key", "value"])
        counts = np.diff(offsets)
        items = entries.slice(offsets[0], offsets[-1] - offsets[0])
        if counts[null].any():  # a null may cover items, which nobody sees
            items = items.filter(pa.array(np.repeat(~null, counts)))
        return [None if gone else count for gone, count in zip(null.tolist(), counts.tolist(), strict=True)], items
    return pc.list_value_length(array).to_pylist(), array.flatten()


def fields_of(array: pa.Array) -> list[tuple[str, pa.Array]]:
    """Name and values of each field of an array of structs; null where the struct is null."""
    return list(zip((field.name for field in array.type.fields), array.flatten(), strict=True))


def unscaled(array: pa.Array) -> list[int | None]:
    """[n] the whole numbers of an array of decimals: the values times 10 to the power of its scale."""
    width = array.type.byte_width
    valid, data = array.is_valid().to_pylist(), array.buffers()[1]
    if data is None or not len(array):
        return [None] * len(array)
    stored = data.slice(array.offset * width, len(array) * width).to_pybytes()
    return [
        int.from_bytes(stored[at * width : (at + 1) * width], "little", signed=True) if there else None
        for at, there in enumerate(valid)
    ]


def whole_numbers(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[n] int64 behind an array of whole numbers, dates, times or durations, 0 where it is null."""
    kind = array.type
    narrow = pa.types.is_date32(kind) or pa.types.is_time32(kind)
    numbers = array.cast(pa.int32()) if narrow else array
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = numbers.cast(pa.int64()).fill_null(0).to_numpy()
    return found
