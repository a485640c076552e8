"""Random numbers for a batch, as a function of a seed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


class Draw:
    """One number an image; every call has a seed of its own."""

    def __init__(self, seed: Tensor, count: Tensor) -> None:
        self._seed = seed
        self._count = count
        self._calls = 0

    def __call__(self, limit: float) -> Tensor:
        """float32 [n], uniform in [-limit, limit)."""
        return tf.random.stateless_uniform((self._count,), self._next(), -limit, limit)

    def choice(self, options: int) -> Tensor:
        """int32 [n], each of 0 to options - 1 equally likely."""
        return tf.random.stateless_uniform((self._count,), self._next(), 0, options, tf.int32)

    def beta(self, alpha: float) -> Tensor:
        """float32 [n] from Beta(alpha, alpha)."""
        one, other = (tf.random.stateless_gamma((self._count,), self._next(), alpha) for _ in range(2))
        # Both can be zero in float32 where alpha is tiny: then it is all or nothing anyway.
        return tf.math.divide_no_nan(one, one + other)

    def _next(self) -> Tensor:
        self._calls += 1
        return tf.random.fold_in(self._seed, self._calls)
