"""Many observations at once, which prometheus_client has no call for.

The only place that reaches into its histograms; `tests/metrics/test_bulk.py` compares the outcome with its own
`observe`, and so notices a release that keeps them differently.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from prometheus_client import Histogram


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """The same as `histogram.observe` of each amount. NaN is not allowed."""
    values = np.asarray(amounts, dtype=np.float64)
    bounds = histogram._upper_bounds
    counts = np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds))
    histogram._sum.inc(float(values.sum()))
    for index in np.flatnonzero(counts).tolist():
        histogram._buckets[index].inc(int(counts[index]))


def exemplify(histogram: Histogram, amount: float, labels: dict[str, str], at: float) -> None:
    """Make an amount, observed at `at` (seconds since the epoch), the example of its bucket.

    In shared files there are no exemplars; then it does nothing.
    """
    from prometheus_client.samples import Exemplar

    bucket = histogram._buckets[bisect_left(histogram._upper_bounds, amount)]
    bucket.set_exemplar(Exemplar(labels, amount, at))
