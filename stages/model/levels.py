"""What a code stands for before it is scaled: tables of the number formats that are not integers.

nf4: the 16 quantiles of a normal distribution, QLoRA (arXiv:2305.14314, appendix E).  fp8_e4m3: OCP's
E4M3, sign, 4 bits of exponent with bias 7, 3 of mantissa, without infinities, NaN where all of both are set
(OCP 8-bit floating point specification 1.0, section 5).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Levels = npt.NDArray[np.float32]

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
E4M3_LARGEST = 448.0
E4M3_NAN = 0x7F


@functools.cache
def levels(numeric: str) -> Levels:
    """Code → value, float32 [16] for `nf4`, [256] for `fp8_e4m3`; raises KeyError for other formats."""
    import numpy as np

    table = {"nf4": lambda: np.array(NF4, np.float32), "fp8_e4m3": _e4m3}[numeric]()
    table.flags.writeable = False
    return table


def _e4m3() -> Levels:
    import numpy as np

    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    magnitude = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), np.ldexp(1 + mantissa / 8, exponent - 7))
    magnitude[code & E4M3_NAN == E4M3_NAN] = np.nan
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)


@functools.cache
def dynamic_levels() -> Levels:
    """The 256 values of the signed dynamic 8-bit type (arXiv:2110.02861, section 2.1), ascending, float32.

    Each further zero bit before the indicator divides by ten, and the bits after it are a linear fraction
    between 0.1 and 1, of which the middles of equal steps are taken.
    """
    import numpy as np

    found = [0.0, 1.0]
    for fraction_bits in range(7):
        points = np.linspace(0.1, 1.0, 2**fraction_bits + 1)
        means = (points[:-1] + points[1:]) / 2 * 10.0 ** (fraction_bits - 6)
        found += [*means.tolist(), *(-means).tolist()]
    table = np.array(sorted(found), np.float32)
    table.flags.writeable = False
    return table
