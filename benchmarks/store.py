"""Random batches of 256 from a store: python benchmarks/store.py [--records 200000] [--folder FOLDER]

Records of 8 slots of width 128 in float16 and 16 x 16 uint8 masks, 10,000 per shard; warm page cache, one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from ocl.store import FeatureStore, ShardWriter


def fill(folder: Path, records: int) -> float:
    """Write random records; returns megabytes per second."""
    writer = ShardWriter(folder, {"fingerprint": "benchmark"}, records, shard_size=10_000)
    generator = np.random.default_rng(0)
    start = time.perf_counter()
    for shard in writer.missing():
        count = len(writer.range(shard))
        vectors = generator.standard_normal((count, 8, 128), dtype=np.float32).astype(np.float16)
        masks = generator.integers(0, 255, (count, 8, 16, 16), dtype=np.uint8)
        writer.write(shard, {"vectors": vectors, "masks": masks, "valid": np.ones((count, 8), dtype=bool)})
    writer.finalize()
    size = sum(file.stat().st_size for file in folder.iterdir())
    return size / 1e6 / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        print(f"write and checksum   {fill(folder, arguments.records):10.0f} MB/s")
        start = time.perf_counter()
        store = FeatureStore(folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"open with checksums  {size / 1e6 / (time.perf_counter() - start):10.0f} MB/s")
        for _ in range(2):  # the first pass maps the pages
            start, frames = time.perf_counter(), 0
            for batch in store.random_batches(256, seed=0):
                frames += len(batch["vectors"])
            rate = frames / (time.perf_counter() - start)
        print(f"random batches of 256 {rate:9.0f} frames/s")
        print(f"({len(store)} records, {size / 1e9:.2f} GB, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
