"""Activations rounded to 8-bit codes, once for all maps that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...model.levels import E4M3_LARGEST
from ...model.quantized import ActivationGrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...model.quantized import WeightSpec
    from .graph import GraphBuilder

MIDDLE = 128
# Activations divided by their row's largest magnitude are codes about 128 in steps of 1/127.
UNIT = ActivationGrid(1 / 127, MIDDLE)
# The same in E4M3, whose largest number is 448.
UNIT_FP8 = 1 / E4M3_LARGEST
# A row of zeros has no magnitude to divide by; anything above zero keeps it zeros.
SMALLEST = {"float32": 1e-30, "bfloat16": 1e-30, "float16": 2.0**-14}

# What a map wants of its input: codes on a scale for each row, or on a grid that calibration found.
Wanted = ActivationGrid | Literal["per row", "per row in fp8"]


@dataclass(frozen=True)
class Rounded:
    """Codes [rows, in] with the scalars scale and zero, x ≈ (codes − zero) · scale · largest.

    largest: float32 [rows, 1], each row's largest magnitude, or None where one grid serves all rows.
    """

    codes: str
    scale: str
    zero: str
    largest: str | None


def wanted(spec: WeightSpec | None) -> Wanted | None:
    """What a product of 8-bit codes with a weight reads; None where it takes floating point."""
    if spec is None or spec.format.activation not in ("dynamic", "static"):
        return None
    return spec.input or ("per row in fp8" if spec.format.numeric == "fp8_e4m3" else "per row")


class ActivationWriter:
    """Writes the rounding of activations.

    signed: codes about a zero point of 128 are written as int8 about 0, which is all that TensorRT takes.
    Others are uint8, which is what onnxruntime's kernels multiply fastest on x86. all_signed: these too are
    int8. Products of two int8 are exact on every processor; those of uint8 and int8 are not where an x86
    without an int8 dot product opens a graph that is optimized already, such as an .ort file.
    """

    def __init__(self, graph: GraphBuilder, *, signed: bool, all_signed: bool = False) -> None:
        self._graph = graph
        self._signed = signed
        self._all_signed = all_signed
        self._known: dict[tuple[str, Wanted], Rounded] = {}
        self._parts: dict[tuple[str, str], tuple[str, ...]] = {}

    def rounded(self, value: str, want: Wanted) -> Rounded:
        """float32 [..., in] as codes; what was rounded before is not rounded again.

        One scale a row, that is a token: what else is in the batch cannot change a token's result, and the
        divergence from float32 was a fifth of that with one scale for all rows, for 8 % of the time.
        """
        known = self._known.get((value, want))
        if known is None:
            known = (
                self._on_grid(value, want) if isinstance(want, ActivationGrid) else self._per_row(value, want)
            )
            self._known[value, want] = known
        return known

    def divide(self, value: str, counts: str, wants: Sequence[Wanted | None]) -> tuple[str, ...]:
        """[rows, in] in parts: the first counts[0] rows, and so on; some may have none.

        wants: what is wanted of each part. Scales of rows are found before rows are divided, since
        onnxruntime's ReduceMax does not give the maxima of no rows; so is a grid that all parts share.
        """
        whole, maps = set(wants), len(wants)
        early = [want for want in whole if isinstance(want, str) or (want and len(whole) == 1)]
        pieces = {want: self._pieces(value, counts, want, maps) for want in early if want is not None}
        if len(whole) == 1 and pieces:
            ((want, found),) = pieces.items()
            parts = tuple(piece.codes for piece in found)
        else:
            parts = self._split(value, counts, maps)
        for want, found in pieces.items():
            self._known.update({(part, want): piece for part, piece in zip(parts, found, strict=True)})
        return parts

    def _pieces(self, value: str, counts: str, want: Wanted, maps: int) -> list[Rounded]:
        whole = self.rounded(value, want)
        codes = self._split(whole.codes, counts, maps)
        largest = self._split(whole.largest, counts, maps) if whole.largest else (None,) * maps
        return [
            Rounded(each, whole.scale, whole.zero, most) for each, most in zip(codes, largest, strict=True)
        ]

    def _split(self, value: str, counts: str, maps: int) -> tuple[str, ...]:
        if (value, counts) not in self._parts:
            self._parts[value, counts] = self._graph.nodes("Split", (value, counts), maps, axis=0)
        return self._parts[value, counts]

    def _per_row(self, value: str, want: Wanted) -> Rounded:
        graph = self._graph
        largest = graph.node("ReduceMax", graph.node("Abs", value), graph.ints(-1), keepdims=1)
        largest = graph.node("Max", largest, graph.scalar(SMALLEST[graph.dtype]))
        share = graph.node("Div", value, largest)
        if want == "per row in fp8":
            scale, zero = graph.scalar(UNIT_FP8), graph.scalar(0, "float8e4m3fn")
            return Rounded(graph.node("QuantizeLinear", share, scale, zero), scale, zero, largest)
        unit = self._on_grid(share, UNIT)
        return Rounded(unit.codes, unit.scale, unit.zero, largest)

    def _on_grid(self, value: str, grid: ActivationGrid) -> Rounded:
        graph = self._graph
        scale = graph.scalar(grid.scale)
        is_signed = self._all_signed or (self._signed and grid.is_symmetric)
        zero = graph.scalar(grid.zero - MIDDLE, "int8") if is_signed else graph.scalar(grid.zero, "uint8")
        return Rounded(graph.node("QuantizeLinear", value, scale, zero), scale, zero, None)
