"""Speed and size, measured beside the alternatives in one run."""

from prag.bench.answering import bench_answer
from prag.bench.encoding import bench_encode
from prag.bench.retrieving import bench_retrieve
from prag.bench.storing import bench_store

__all__ = ["bench_answer", "bench_encode", "bench_retrieve", "bench_store"]
