"""Numbers that depend on positions alone: the frequencies of rotary embeddings, the buckets of distances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from .families import RelativeBias, Rope


def inverse_frequencies(rope: Rope) -> npt.NDArray[np.float32]:
    """Radians a position for each pair of features: float32 [dim / 2], theta^(-2i/dim), scaled by its kind.

    `linear` divides all by the factor (arXiv:2306.15595). `llama3` divides only the slow ones, whose
    wavelength exceeds the original context over `low_freq_factor`, keeps the fast ones, and blends between
    (the reference code of Llama 3.1). `longrope` (arXiv:2402.13753) has two rows: [2, dim / 2], for contexts
    up to the original one and for longer ones. Computed in float32, as the reference implementations do.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    frequencies = np.float32(1) / np.power(np.float32(rope.theta), exponents)
    scaling = rope.scaling or {}
    if rope.kind == "longrope":
        frequencies = frequencies / np.array(rope.factors, np.float32)
    if rope.kind == "linear":
        frequencies = frequencies / np.float32(scaling["factor"])
    if rope.kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / np.float32(2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = (1 - kept) * frequencies / scaling["factor"] + kept * frequencies
    return np.asarray(frequencies, np.float32)


def buckets(bias: RelativeBias) -> npt.NDArray[np.int64]:
    """The bucket of each distance from -max_distance to max_distance: int64 [2 max_distance + 1].

    Where both directions are seen, keys behind the query and keys before it have half of the buckets each;
    otherwise all keys behind the query, which are never attended to, are at distance 0. Half of a direction's
    buckets hold a distance each; from there, the bucket is exact + (count - exact) log(d / exact) /
    log(max / exact), rounded down. Computed in float32, as in the reference implementations, which decides
    at the edges.
    """
    distance = np.arange(-bias.max_distance, bias.max_distance + 1)
    count, offset = bias.buckets, np.zeros(len(distance), np.int64)
    if bias.both_directions:
        count //= 2
        offset = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(bias.max_distance / exact)) * np.float32(count - exact)
    far = np.minimum(exact + steps.astype(np.int64), count - 1)
    return np.asarray(offset + np.where(distance < exact, distance, far), np.int64)
