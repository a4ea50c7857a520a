"""Contender of `jobs.benchmark pipeline`: the batch inference recipe of Ray Data's documentation, plus the meter.

    python with_ray_data.py CORPUS MODEL OUTPUT METER THREADS [set-threads]

As it stands it leaves PyTorch the one thread that Ray gives an actor; with the last word it gets THREADS, as the other
contenders do, which the recipe does not report.
"""

import sys
from typing import Any

import ray
import torch
from meter import Meter
from sentence_transformers import SentenceTransformer


class Embed:
    """Holds the model; one batch of rows in, their ids and vectors out."""

    def __init__(self, model_folder: str, meter_file: str, threads: int | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.model = SentenceTransformer(model_folder, device="cpu")
        self.meter = Meter(meter_file, self.model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        vectors = self.model.encode(list(batch["text"]), batch_size=32, normalize_embeddings=True)
        self.meter.done(batch["id"].tolist())
        return {"id": batch["id"], "embedding": vectors}


def main(corpus: str, model_folder: str, output: str, meter_file: str, threads: str, set_threads: str = "") -> None:
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    arguments = (model_folder, meter_file, int(threads) if set_threads else None)
    (
        ray.data.read_parquet(corpus)
        .map_batches(Embed, fn_constructor_args=arguments, concurrency=1)
        .write_parquet(output)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
