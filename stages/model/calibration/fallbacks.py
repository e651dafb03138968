"""Weights that a calibrated method treats as one without calibration does: when, and what is said of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .walk import Stop

# Fewer tokens than this share of its inputs do not tell how an expert's inputs go together.
LEAST_ROWS = 0.25


def too_little(stop: Stop) -> str | None:
    """Why a Hessian of so few tokens is not used; None where it is."""
    if stop.rows == 0:
        return "no token of the calibration text came to them"
    if stop.rows < LEAST_ROWS * stop.linears[0].in_features:
        return "too few tokens of the calibration text came to them"
    return None


def count_fallbacks(evidence: Mapping[str, Any]) -> int:
    """How many weights had no use of the calibration text."""
    return sum(1 for entry in evidence.values() if entry["fallback"])


def describe_fallbacks(evidence: Mapping[str, Any], what: str) -> str:
    """A remark for the report, empty where there is nothing to say; what: was done instead."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, entry in evidence.items():
        if entry["fallback"]:
            reasons[entry["fallback"]].append(name)
    return "; ".join(
        f"{len(names)} weights were {what}, since {reason}: {names[0]}"
        + (" and others" if len(names) > 1 else "")
        for reason, names in reasons.items()
    )
