"""Speed and size, measured beside the alternatives in one run."""

from prag.bench.answering import bench_answer
from prag.bench.encoding import bench_encode

__all__ = ["bench_answer", "bench_encode"]
