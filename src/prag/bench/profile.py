"""Where the time of a run goes, by kind of operation, as torch's profiler sees it."""

from __future__ import annotations

from collections.abc import Callable

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
    with profile(activities=[ProfilerActivity.CPU]) as seen:
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
