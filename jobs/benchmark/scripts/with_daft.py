"""Contender of `jobs.benchmark pipeline`: Daft's `embed_text` with its provider for sentence-transformers' models.

    python with_daft.py CORPUS MODEL OUTPUT METER THREADS

Daft does not tell when which rows are done, so the meter stays empty: only the whole process is compared.
"""

import os
import sys
from pathlib import Path


def main(corpus: str, model_folder: str, output: str, meter_file: str, threads: str) -> None:
    os.environ["OMP_NUM_THREADS"] = threads  # before torch is imported, also by a process that Daft may start
    import daft
    from daft.functions import embed_text

    Path(meter_file).touch()
    texts = daft.read_parquet(f"{corpus}/*.parquet")
    vectors = embed_text(texts["text"], provider="transformers", model=model_folder)
    texts.select(texts["id"], vectors.alias("embedding")).write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
