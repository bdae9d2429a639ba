"""Where the time of a run goes, by kind of operation, as torch's profiler sees it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile

KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("mm", "addmm"),
    "batched products": ("bmm", "baddbmm", "baddbmm_"),
    "fused attention": (),  # every name with scaled_dot_product in it
    "loss": ("_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward"),
    "copies": ("copy_", "cat", "clone", "fill_", "zero_", "index", "index_put_", "constant_pad_nd"),
}
"""Operations of torch by kind; batched are the low-rank products, and attention that is not fused.
What is none of these is `elementwise and the rest`, the calling of operations included."""

REST = "elementwise and the rest"


def shares(run: Callable[[], object]) -> dict[str, float]:
    """The share of each kind in the processor time of a run, the largest first.

    The profiler's own time counts among the rest, so that share is rather too large.
    """
    with _without_marks(), profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        kind = _kind(event.key.removeprefix("aten::"))
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return {kind: times[kind] / total for kind in sorted(times, key=lambda k: -times[k])}


def _kind(name: str) -> str:
    if "scaled_dot_product" in name:
        return "fused attention"
    return next((kind for kind, names in KINDS.items() if name in names), REST)


@contextmanager
def _without_marks() -> Iterator[None]:
    """Keep the profiler's two lines for tracing tools ("USDT:") from stderr, and nothing else.

    They rank above its errors, so a log level (KINETO_LOG_LEVEL) without them has no errors either.
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not line.startswith(b"USDT:"):
                    os.write(2, line)
