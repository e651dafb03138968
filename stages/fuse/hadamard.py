"""Orthogonal matrices that mix all features of a vector evenly, applied without being written out.

A Hadamard matrix holds ±1 and has orthogonal rows. One of order 2^k is Sylvester's, applied by k sums and
differences of halves; of order 4·odd there are Paley's (1933), of quadratic residues modulo a prime q: order
q + 1 where q is 3 modulo 4 (12, 20, 44, 60 ...), 2(q + 1) where it is 1 (28, 36, 76 ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rotation:
    """x → x Q for Q = diag(signs) · (factor ⊗ Sylvester), orthogonal.

    signs: ±1, float64 [width], drawn: they make the mixture another one for every seed.  factor: an
    orthogonal float64 [m, m], with width = m · 2^k.  kind: what the factors are, in words.
    """

    signs: Doubles
    factor: Doubles
    kind: str

    @staticmethod
    def of(width: int, seed: int) -> Rotation:
        """The rotation of vectors of ``width`` features.

        Where width is 2^k · odd and Paley gives no matrix of order 4·odd, the factor is an orthogonal matrix
        of order odd, drawn by seed evenly from all of them (the Q of a Gaussian matrix; Mezzadri 2007).
        """
        generator = np.random.Generator(np.random.PCG64([seed, width]))
        signs = generator.choice(np.array([-1.0, 1.0]), width)
        odd = width // (width & -width)
        if odd == 1:
            return Rotation(signs, np.ones((1, 1)), f"Hadamard {width}")
        order = 4 * odd
        small = paley(order) if width % order == 0 else None
        if small is not None:
            return Rotation(signs, small / math.sqrt(order), f"Hadamard {order} x {width // order}")
        gaussian, upper = np.linalg.qr(generator.standard_normal((odd, odd)))
        drawn = gaussian * np.sign(np.diagonal(upper))
        return Rotation(signs, drawn, f"orthogonal {odd} x Hadamard {width // odd}")

    def apply(self, values: Doubles) -> Doubles:
        """float64 [rows, width], or [rows, any, width] → the same times Q."""
        outer = len(self.factor)
        inner = len(self.signs) // outer
        flat = (values * self.signs).reshape(-1, outer, inner)
        half = 1
        while half < inner:
            pairs = flat.reshape(-1, outer, inner // (2 * half), 2, half)
            first, second = pairs[..., 0, :], pairs[..., 1, :]
            flat = np.stack((first + second, first - second), axis=-2)
            half *= 2
        flat = flat.reshape(-1, outer, inner) / math.sqrt(inner)
        if outer > 1:
            flat = np.einsum("ri,nrk->nik", self.factor, flat, optimize=True)
        return flat.reshape(values.shape)


def paley(order: int) -> Doubles | None:
    """Paley's Hadamard matrix of ±1 [order, order], None where there is no prime for it."""
    if _is_prime(order - 1) and order % 4 == 0:
        core = _residues(order - 1)
        found = np.ones((order, order))
        found[1:, 1:] = core + np.eye(order - 1)
        found[1:, 0] = -1.0
        return found
    half = order // 2
    if order % 4 == 0 and half % 4 == 2 and _is_prime(half - 1):
        conference = np.zeros((half, half))
        conference[0, 1:] = conference[1:, 0] = 1.0
        conference[1:, 1:] = _residues(half - 1)
        on, off = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, -1.0]])
        return np.kron(conference, on) + np.kron(np.eye(half), off)
    return None


def _residues(prime: int) -> Doubles:
    """+1 where row − column is a square modulo the prime, −1 where it is none, 0 on the diagonal."""
    character = np.full(prime, -1.0)
    character[np.arange(1, prime) ** 2 % prime] = 1.0
    character[0] = 0.0
    index = np.arange(prime)
    found: Doubles = character[(index[:, None] - index[None, :]) % prime]
    return found


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % each for each in range(2, math.isqrt(number) + 1))
