"""Contender of `jobs.benchmark pipeline`: a usual sentence-transformers script, plus the meter.

python with_sentence_transformers.py CORPUS MODEL OUTPUT METER THREADS
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from meter import Meter
from sentence_transformers import SentenceTransformer


def main(corpus: str, model_folder: str, output: str, meter_file: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    model = SentenceTransformer(model_folder, device="cpu")
    table = pq.read_table(corpus)
    meter = Meter(meter_file, model)
    vectors = model.encode(table["text"].to_pylist(), batch_size=32, normalize_embeddings=True)
    meter.done(table["id"].to_pylist())
    Path(output).mkdir()
    embedding = pa.FixedSizeListArray.from_arrays(np.ravel(vectors), vectors.shape[1])
    pq.write_table(pa.table({"id": table["id"], "embedding": embedding}), f"{output}/vectors.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
