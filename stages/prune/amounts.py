"""How much goes, as it is written: a share, or a whole number."""

from __future__ import annotations

from ...artifacts.errors import RecipeError

Amount = int | float


def check_amount(label: str, amount: Amount | None) -> None:
    """Raises RecipeError for what is neither a share above 0 and below 1 nor a whole number from 1."""
    if amount is None or (isinstance(amount, int) and amount >= 1):
        return
    if isinstance(amount, int) or not 0 < amount < 1:
        raise RecipeError(
            f"{label}: {amount!r} is neither a share above 0 and below 1 nor a whole number from 1",
            fix="0.25 takes a quarter away, 2 takes two",
        )


def left(label: str, amount: Amount, total: int, unit: str, multiple: int = 1, each: int = 1) -> int:
    """How many of ``total`` stay.

    multiple: what a share is rounded to, to the nearest one.  each: how many a whole number counts for one of
    them. Raises RecipeError where none would go or stay.
    """
    if isinstance(amount, int):
        stay = total - amount // each
    else:
        stay = max(multiple, round((1 - amount) * total / multiple) * multiple)
    if stay < 1:
        raise RecipeError(f"{label}: {amount} leaves none of {total} {unit}", fix="take less")
    if stay >= total:
        rounded = f", in multiples of {multiple}," if multiple > 1 else ""
        raise RecipeError(f"{label}: {amount} of {total} {unit}{rounded} takes none away", fix="take more")
    return stay
