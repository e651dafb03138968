"""How the learning rate runs over the steps of a training, as a share of its height."""

from __future__ import annotations

import math

# Of one-cycle: what the height is divided by at the start, and that at the end (arXiv:1708.07120).
START, END = 25.0, 1e4


def share(kind: str, step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate that the step with that number (from 0) takes, above 0 and up to 1.

    warmup: the share of the steps in which it rises, in equal parts; the last of them has the height itself.
    Behind them, with p the part of the others that is done: cosine ½(1 + cos πp) (arXiv:1608.03983), linear
    1 - p, constant 1. One-cycle (Smith and Topin, arXiv:1708.07120) rises and falls as half a cosine, from
    1/25 and to 1/250,000; its momentum stays.
    """
    rising = min(steps, math.ceil(warmup * steps))
    if step < rising:
        done = (step + 1) / rising
        return done if kind != "one-cycle" else _between(1 / START, 1.0, done)
    part = (step - rising) / (steps - rising)
    match kind:
        case "cosine":
            return (1 + math.cos(math.pi * part)) / 2
        case "linear":
            return 1 - part
        case "one-cycle":
            return _between(1.0, 1 / (START * END), part)
    return 1.0


def _between(start: float, end: float, part: float) -> float:
    """Half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
