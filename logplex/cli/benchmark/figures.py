"""Figures of many samples."""

from collections.abc import Sequence

WARM_UP = 0.1  # the share of the first samples: connections are made, and code is cold


def quantiles_ms(micros: Sequence[int]) -> tuple[float | None, float | None]:
    """Median and 99th percentile in milliseconds of samples in the order they were taken, without the warm-up."""
    samples = sorted(micros[int(len(micros) * WARM_UP) :])
    if not samples:
        return None, None
    return samples[len(samples) // 2] / 1000, samples[len(samples) * 99 // 100] / 1000
