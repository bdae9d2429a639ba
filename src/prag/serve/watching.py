"""Metrics, for Prometheus: every service has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Meters:
    """What is counted and timed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.questions = Counter(
            "prag_questions",
            "Questions by method and HTTP status.",
            ["method", "status"],
            registry=r,
        )
        self.seconds = Histogram(
            "prag_stage_seconds",
            "Seconds of a question by stage.",
            ["method", "stage"],
            buckets=_SECONDS,
            registry=r,
        )
        self.again = Counter(
            "prag_again",
            "Answers that were not given because what they rest on was withdrawn or rebuilt.",
            registry=r,
        )
        self.tokens = Counter("prag_tokens", "Tokens by kind.", ["kind"], registry=r)
        self.rows = Histogram(
            "prag_rows", "Rows of a forward pass.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=r
        )
        self.gauges = {
            name: Gauge(f"prag_{name}", text, registry=r)
            for name, text in {
                "under_way": "Questions whose tokens are being made.",
                "waiting": "Questions without a place.",
                "admitted": "Questions that were let in and are not answered.",
                "builds": "1 where this is the service that builds documents in, else 0.",
                "damaged_jobs": "Files in the inbox that are no jobs.",
                "adapters": "Adapters in the store.",
                "adapter_bytes": "Bytes of the adapter store.",
                "cached_bytes": "Bytes of adapters in memory.",
                "cache_hits": "Adapters that were found in memory.",
                "cache_misses": "Adapters that were read from the store.",
            }.items()
        }
        self.jobs = Gauge("prag_jobs", "Jobs by state.", ["state"], registry=r)

    def passed(self, rows: int) -> None:
        """A forward pass was made of so many rows."""
        self.rows.observe(rows)

    def text(self) -> bytes:
        """All of it as Prometheus reads it."""
        text: bytes = generate_latest(self.registry)
        return text
