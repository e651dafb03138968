"""The one quantized form: codes with scales and zero points, on disk and in memory.

A `quantized-checkpoint` payload holds config.json, the tokenizer, `model.safetensors` and
`quantization.json`. A quantized weight W is absent from the safetensors; in its place are `W.codes` (uint8
[out, in], unpacked), `W.scales` (float32 [out, groups]) and, of integers, `W.zeros` (uint8 [out, groups]),
with W ≈ (codes − zeros) · scales; the codes of nf4 and fp8 name a level (`levels.py`), W ≈ level · scale.
Scales that are quantized themselves lie beside what they stand for: `W.scale_codes`, `W.scale_scales` and
`W.scale_offset`. Everything else stays as it was, byte for byte. Exporters pack codes; they never round.
Where activations are `static`, the record also holds the grid of the weight's input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import CorruptError
from ...artifacts.tensors import TensorShape
from .checkpoint import WEIGHTS_FILE, Checkpoint
from .levels import levels

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]
    Scales = npt.NDArray[np.float32]

SCHEMA = "ingot/quantization/v1"
RECORD_FILE = "quantization.json"
# What a scale that is quantized itself shares its own scale with (QLoRA, arXiv:2305.14314, section 3).
SCALES_PER_BLOCK = 256
WIDTHS = {"nf4": "nf4", "fp8_e4m3": "fp8"}


@dataclass(frozen=True)
class WeightFormat:
    """How one weight is stored.

    bits: 2, 3, 4 or 8.  group_size: input features a scale covers; 0 is the whole row.  sym: the zero point
    is 2^(bits−1).  activation: `none` (weight only), `dynamic` (int8 activations, of fp8 weights fp8 ones,
    scaled at run time) or `static` (int8 activations on one grid, which calibration found).
    numeric: what codes are: `int`, `nf4` (4 bits) or `fp8_e4m3` (8 bits), of which the latter two are sym.
    double_quantized: scales are codes themselves, in blocks of 256.
    """

    bits: int
    group_size: int
    sym: bool
    activation: str = "none"
    numeric: str = "int"
    double_quantized: bool = False

    @property
    def width(self) -> str:
        """What it is called where widths are counted: `int4`, `nf4`, `fp8`."""
        return WIDTHS.get(self.numeric, f"int{self.bits}")


@dataclass(frozen=True)
class ActivationGrid:
    """How an activation x is stored: x ≈ (code − zero) · scale, codes 0 … 255, one grid for the tensor.

    scale: a float32 above 0.  zero: the code of 0; 128 is symmetric, int8 about 0.
    """

    scale: float
    zero: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"an activation scale of {self.scale}")
        if not 0 <= self.zero <= 255:
            raise ValueError(f"an activation zero point of {self.zero}")

    @property
    def is_symmetric(self) -> bool:
        """Whether int8 codes without a zero point are the same numbers."""
        return self.zero == 128


@dataclass(frozen=True)
class WeightSpec:
    """A quantized weight's format and shape [out, in].

    stored_in_out: the source kept it as [in, out] (GPT-2's Conv1D), so it was transposed.
    input: the grid of what it multiplies, where activations are static; unknown while planning.
    """

    format: WeightFormat
    shape: tuple[int, int]
    stored_in_out: bool = False
    input: ActivationGrid | None = None

    @property
    def groups(self) -> int:
        """How many scales a row has."""
        size = self.format.group_size
        return -(-self.shape[1] // size) if size else 1

    @property
    def parameters(self) -> int:
        """How many weights it holds."""
        return self.shape[0] * self.shape[1]

    @property
    def payload_bits(self) -> int:
        """Bits once packed: codes at their width, scales and, when not symmetric, zeros.

        Scales are float32, or a byte each with a float32 a block of them and one for all.
        """
        scales = self.shape[0] * self.groups
        scale_bits = scales * 8 + (self.scale_blocks + 1) * 32 if self.scale_blocks else scales * 32
        zero_bits = 0 if self.format.sym else scales * self.format.bits
        return self.parameters * self.format.bits + scale_bits + zero_bits

    @property
    def scale_blocks(self) -> int:
        """How many blocks of 256 its scales make, where they are quantized themselves, else 0."""
        return -(-self.shape[0] * self.groups // SCALES_PER_BLOCK) if self.format.double_quantized else 0

    def layout(self, name: str) -> tuple[TensorShape, ...]:
        """The tensors that stand in the place of the weight ``name``, in the order they are written."""
        scales = (self.shape[0], self.groups)
        parts = [
            TensorShape(f"{name}.codes", "U8", self.shape),
            TensorShape(f"{name}.scales", "F32", scales),
        ]
        if self.format.numeric == "int":
            parts.append(TensorShape(f"{name}.zeros", "U8", scales))
        if self.format.double_quantized:
            parts += [
                TensorShape(f"{name}.scale_codes", "U8", scales),
                TensorShape(f"{name}.scale_scales", "F32", (self.scale_blocks,)),
                TensorShape(f"{name}.scale_offset", "F32", (1,)),
            ]
        return tuple(parts)

    def to_json(self) -> dict[str, object]:
        """The weight's entry in `quantization.json`."""
        return {
            "bits": self.format.bits,
            "group_size": self.format.group_size,
            "sym": self.format.sym,
            "activation": self.format.activation,
            "numeric": self.format.numeric,
            "double_quantized": self.format.double_quantized,
            "shape": list(self.shape),
            "stored_in_out": self.stored_in_out,
            **({} if self.input is None else {"input": asdict(self.input)}),
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> WeightSpec:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError for anything else.

        A record that does not say what its codes are is of integers: it was written before there were others.
        """
        shape = value["shape"]
        if not isinstance(shape, list) or len(shape) != 2:
            raise ValueError("shape must have two dimensions")
        form = WeightFormat(
            int(str(value["bits"])),
            int(str(value["group_size"])),
            bool(value["sym"]),
            str(value["activation"]),
            str(value.get("numeric", "int")),
            bool(value.get("double_quantized", False)),
        )
        if form.numeric not in ("int", *WIDTHS):
            raise ValueError(f"codes of {form.numeric!r} are not known")
        grid = value.get("input")
        if (form.activation == "static") != isinstance(grid, Mapping):
            raise ValueError(f"{form.activation} activations with the grid {grid}")
        found = ActivationGrid(float(grid["scale"]), int(grid["zero"])) if isinstance(grid, Mapping) else None
        return WeightSpec(form, (int(shape[0]), int(shape[1])), bool(value["stored_in_out"]), found)


@dataclass(frozen=True)
class QuantizedWeight:
    """codes: uint8 [out, in]; scales: float32 [out, groups]; zeros: uint8 [out, groups], 0 but for integers.

    scale_codes: uint8 [out, groups], scale_scales: float32 [blocks], scale_offset: float32 [1]; None where
    scales are not quantized.
    """

    name: str
    spec: WeightSpec
    codes: Codes
    scales: Scales
    zeros: Codes
    scale_codes: Codes | None = None
    scale_scales: Scales | None = None
    scale_offset: Scales | None = None

    def dequantize(self, rows: slice | None = None) -> Scales:
        """The float32 weight [out, in] that the codes stand for, or those rows of it."""
        import numpy as np

        rows = rows or slice(None)
        size = self.spec.format.group_size or self.spec.shape[1]
        group = np.arange(self.spec.shape[1]) // size
        if self.spec.format.numeric == "int":
            values = self.codes[rows].astype(np.float32)
            values -= self.zeros[rows].astype(np.float32)[:, group]
        else:
            values = levels(self.spec.format.numeric)[self.codes[rows]]
        values *= self.scales[rows][:, group]
        return values


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """A `quantized-checkpoint` payload, opened. ``checkpoint`` holds what stayed in floating point.

    transforms: what was folded into the network before it was quantized.
    """

    checkpoint: Checkpoint
    method: str
    quantized: Mapping[str, WeightSpec]
    transforms: Sequence[Mapping[str, object]] = ()

    @staticmethod
    def open(directory: Path) -> QuantizedCheckpoint:
        """Opens a payload directory; raises CorruptError when its record does not describe its tensors."""
        path = directory / RECORD_FILE
        try:
            value = json.loads(path.read_text("utf-8"))
            specs = {name: WeightSpec.from_json(entry) for name, entry in value["weights"].items()}
            schema, method = value["schema"], str(value["method"])
            transforms = tuple(value.get("transforms", ()))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptError(f"not a quantization record: {error}", where=str(path)) from error
        if schema != SCHEMA:
            raise CorruptError(f"quantization record of schema {schema!r}, not {SCHEMA!r}", where=str(path))
        checkpoint = Checkpoint.open(directory)
        present = set(checkpoint.tensors.names())
        for name, spec in specs.items():
            missing = [part.name for part in spec.layout(name) if part.name not in present]
            if missing:
                parts = ", ".join(part.removeprefix(f"{name}.") for part in missing)
                raise CorruptError(f"{name} lacks its {parts}", where=str(directory / WEIGHTS_FILE))
        return QuantizedCheckpoint(checkpoint, method, specs, transforms)

    def weight(self, name: str) -> QuantizedWeight:
        """A quantized weight as views of the mapped file."""
        import numpy as np

        tensors, spec = self.checkpoint.tensors, self.quantized[name]
        parts = {part.name.removeprefix(f"{name}."): tensors.array(part.name) for part in spec.layout(name)}
        parts.setdefault("zeros", np.zeros((spec.shape[0], spec.groups), np.uint8))
        return QuantizedWeight(name, spec, **parts)

    def float_names(self) -> list[str]:
        """The tensors that were not quantized."""
        taken = {part.name for name, spec in self.quantized.items() for part in spec.layout(name)}
        return [name for name in self.checkpoint.tensors.names() if name not in taken]


def record_json(
    method: str, specs: Mapping[str, WeightSpec], transforms: Sequence[Mapping[str, object]] = ()
) -> dict[str, object]:
    """The content of `quantization.json`; transforms: what was folded into the network beforehand."""
    weights = {name: spec.to_json() for name, spec in specs.items()}
    return {
        "schema": SCHEMA,
        "method": method,
        "weights": weights,
        "transforms": [dict(each) for each in transforms],
    }


def weights_by_width(
    specs: Mapping[str, WeightSpec], float_parameters: Mapping[str, tuple[int, int]]
) -> Mapping[str, object]:
    """How many tensors and parameters there are at each width, such as `int4` or `bf16`.

    float_parameters: tensors and parameters by dtype name of what stayed in floating point.
    """
    counts: dict[str, list[int]] = {}
    for spec in specs.values():
        entry = counts.setdefault(spec.format.width, [0, 0])
        entry[0] += 1
        entry[1] += spec.parameters
    for dtype, (tensors, parameters) in float_parameters.items():
        counts[dtype] = [tensors, parameters]
    return {width: {"tensors": n, "parameters": p} for width, (n, p) in sorted(counts.items())}
