"""The standard deviation of a distribution's values: numbers for the report."""

from __future__ import annotations

import math
from functools import lru_cache

from convinit_ext.distributions import Distribution, Normal, TruncatedNormal, Uniform

_NEGLIGIBLE = 40.0  # e^-40 of a density is nothing to a standard deviation
_INTERVALS = 1000  # of Simpson's rule


def std_of(distribution: Distribution) -> float:
    """The standard deviation of the values, of a truncated normal after its truncation.

    >>> round(std_of(Uniform(-3.0, 3.0)) ** 2, 9)
    3.0
    """
    if isinstance(distribution, Uniform):
        return (distribution.high - distribution.low) / math.sqrt(12)
    if isinstance(distribution, Normal):
        return distribution.std
    return _truncated_std(distribution) if isinstance(distribution, TruncatedNormal) else 0.0


@lru_cache(maxsize=256)
def _truncated_std(distribution: TruncatedNormal) -> float:
    """By Simpson's rule over the part that holds all but e^-40 of the density: no tail is too far."""
    if distribution.std == 0.0:
        return 0.0
    low, high = ((bound - distribution.mean) / distribution.std for bound in (distribution.a, distribution.b))
    peak = min(max(low, 0.0), high)
    if not math.isfinite(peak):
        return 0.0
    # d |peak| + d^2 / 2 = 40
    reach = 2 * _NEGLIGIBLE / (abs(peak) + math.sqrt(peak * peak + 2 * _NEGLIGIBLE))
    low, high = max(low, peak - reach), min(high, peak + reach)
    width = (high - low) / _INTERVALS
    places = [low + index * width for index in range(_INTERVALS + 1)]
    # relative to the peak: (z^2 - peak^2) / 2 without cancellation
    density = [math.exp(-(z - peak) * (z + peak) / 2) for z in places]
    weights = [
        p * (1 if index in (0, _INTERVALS) else 4 if index % 2 else 2) for index, p in enumerate(density)
    ]
    total = sum(weights)
    centre = sum(w * (z - peak) for w, z in zip(weights, places, strict=True)) / total
    variance = sum(w * (z - peak - centre) ** 2 for w, z in zip(weights, places, strict=True)) / total
    return distribution.std * math.sqrt(variance)
