"""Contender of `jobs.benchmark pipeline`: our encoder alone, without a pipeline. Read Parquet, encode, write Parquet.

    python with_encoder.py CORPUS MODEL OUTPUT METER THREADS

One file after the other: these are the splits of sfr-batch, so both have the same rows to make batches of.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meter import Meter

from sfr_batch import Encoder
from sfr_batch.config.settings import ModelSettings


def main(corpus: str, model: str, output: str, meter_file: str, threads: str) -> None:
    encoder = Encoder.load(ModelSettings(path=model, device="cpu"), torch_threads=int(threads))
    meter = Meter(meter_file)
    ids: list[str] = []
    vectors = []
    for file in sorted(Path(corpus).glob("*.parquet")):
        table = pq.read_table(file)
        tokenized = encoder.tokenizer.encode(table["text"].to_pylist(), "")
        encoded = encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids)  # what Encoder.encode does, counted
        meter.encoded, meter.padded = encoded.tokens, encoded.padded_tokens
        meter.done(table["id"].to_pylist())
        ids += table["id"].to_pylist()
        vectors.append(encoded.vectors)
    embedding = pa.FixedSizeListArray.from_arrays(np.ravel(np.concatenate(vectors)), encoder.dim)
    Path(output).mkdir()
    pq.write_table(pa.table({"id": ids, "embedding": embedding}), f"{output}/vectors.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
