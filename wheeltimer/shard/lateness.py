"""How late timers were: a histogram with bounded error and memory, for ``stats`` and the benchmarks."""

from __future__ import annotations

from typing import Final

_STEPS: Final = 16  # buckets per doubling: a percentile is right to within 1/16
_SHIFT: Final = 4


class Lateness:
    """Counts of lateness in microseconds, in buckets that grow with it; at most 600 of them."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0
        self.max_us = 0

    def add(self, late_ns: int) -> None:
        late_us = max(0, late_ns) // 1000
        shift = max(0, late_us.bit_length() - 1 - _SHIFT)
        bucket = shift * _STEPS + (late_us >> shift)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1
        self.max_us = max(self.max_us, late_us)

    def percentile_us(self, permille: int) -> int:
        """The lateness that ``permille`` of 1000 timers stayed within, in us, rounded up; 0 for none."""
        wanted = -(-self.total * permille // 1000)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                shift = max(0, bucket // _STEPS - 1)
                return min(self.max_us, ((bucket - shift * _STEPS + 1) << shift) - 1)
        return 0

    def shown(self) -> dict[str, int]:
        """p50, p99, p99.9 and max in us."""
        return {
            "p50": self.percentile_us(500),
            "p99": self.percentile_us(990),
            "p999": self.percentile_us(999),
            "max": self.max_us,
        }
