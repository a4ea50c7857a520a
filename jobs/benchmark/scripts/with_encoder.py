"""Contender of `jobs.benchmark pipeline`: our encoder alone, without a pipeline. Read Parquet, encode, write Parquet.

python with_encoder.py CORPUS MODEL OUTPUT METER
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from meter import Meter

from sfr_batch import Encoder
from sfr_batch.config.settings import ModelSettings


def main(corpus: str, model: str, output: str, meter_file: str) -> None:
    encoder = Encoder.load(ModelSettings(path=model, device="cpu"))
    table = pq.read_table(corpus)
    meter = Meter(meter_file)
    tokenized = encoder.tokenizer.encode(table["text"].to_pylist(), "")
    encoded = encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids)  # what Encoder.encode does, with its account
    meter.encoded, meter.padded = encoded.tokens, encoded.padded_tokens
    meter.done(table["id"].to_pylist())
    vectors = pa.FixedSizeListArray.from_arrays(np.ravel(encoded.vectors), encoder.dim)
    Path(output).mkdir()
    pq.write_table(pa.table({"id": table["id"], "embedding": vectors}), f"{output}/vectors.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
