"""The compressed-tensors layout, which llm-compressor writes and transformers and vLLM read: three formats.

For a module M, `pack-quantized`: `M.weight_packed` int32 [out, in·bits/32], `M.weight_shape` int64 [2] and,
of weights that are not symmetric, `M.weight_zero_point` int32 [out·bits/32, groups]; codes and zero points
are offset binary. `int-quantized` and `float-quantized`: `M.weight` int8 or F8_E4M3 [out, in] and
`M.weight_zero_point` int8 [out, groups]. Of all three `M.weight_scale` [out, groups]; of static activations
`M.input_scale` and `M.input_zero_point` [1]. Which module has which is said in config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.tensor_header import TensorShape
from . import scales
from .base import Part, check_groups, check_places, module_of, refused, word_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ..families import Architecture
    from ..quantized import ActivationGrid, QuantizedWeight, WeightFormat, WeightSpec

METHOD = "compressed-tensors"
PACKED, INTEGERS, FLOATS = "pack-quantized", "int-quantized", "float-quantized"
# The newest release whose files these are like; its readers and later ones take them.
VERSION = "0.19.0"
INT8_MIDDLE = 128


@dataclass(frozen=True)
class CompressedLayout:
    """Writes the layout."""

    scale_dtype: str = "float32"

    def check(self, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
        """See :class:`~.base.Layout`."""
        check_places(METHOD, weights, model)
        for name, spec in weights.items():
            form = spec.format
            check_groups(METHOD, name, spec)
            if spec.stored_in_out:
                raise refused(METHOD, name, "Conv1D weights", "set export.layout: gptq")
            if form.numeric == "nf4":
                raise refused(METHOD, name, "nf4 weights", "set export.layout: bitsandbytes")
            if form.activation != "none" and (form.bits != 8 or form.group_size):
                what = f"{form.activation} activations with {form.bits}-bit weights in groups"
                raise refused(METHOD, name, what, "quantize to 8 bits with group_size 0, or weights alone")

    def parts(self, name: str, spec: WeightSpec) -> tuple[Part, ...]:
        """See :class:`~.base.Layout`."""
        module, form, groups = module_of(name), spec.format, (spec.shape[0], spec.groups)
        kind = stored_as(form)
        found = []
        if kind == PACKED:
            words = (spec.shape[0], word_count(spec.shape[1], form.bits))
            found.append(Part(TensorShape(f"{module}.weight_shape", "I64", (2,)), _shape))
            found.append(Part(TensorShape(f"{module}.weight_packed", "I32", words), _packed))
        elif kind == INTEGERS:
            found.append(Part(TensorShape(name, "I8", spec.shape), _signed))
        else:
            found.append(Part(TensorShape(name, "F8_E4M3", spec.shape), _bytes))
        dtype = scales.DTYPES[self.scale_dtype]
        found.append(Part(TensorShape(f"{module}.weight_scale", dtype, groups), self._scales))
        if not form.sym and kind == PACKED:
            shape = (word_count(spec.shape[0], form.bits), spec.groups)
            found.append(Part(TensorShape(f"{module}.weight_zero_point", "I32", shape), _packed_zeros))
        elif not form.sym:
            found.append(Part(TensorShape(f"{module}.weight_zero_point", "I8", groups), _signed_zeros))
        if spec.input is not None:
            found.append(Part(TensorShape(f"{module}.input_scale", "F32", (1,)), _input_scale))
            if not spec.input.is_symmetric:
                found.append(Part(TensorShape(f"{module}.input_zero_point", "I8", (1,)), _input_zero))
        return tuple(found)

    def config(self, weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object]:
        """See :class:`~.base.Layout`. One group of modules for each scheme, named one by one where there are
        several, since programs differ in which of two targets goes first.
        """
        schemes: dict[tuple[WeightFormat, bool], list[str]] = {}
        for name, spec in weights.items():
            key = spec.format, spec.input is None or spec.input.is_symmetric
            schemes.setdefault(key, []).append(module_of(name))
        groups = {
            f"group_{index}": {
                "targets": ["Linear"] if len(schemes) == 1 else sorted(modules),
                "weights": _arguments(form),
                "input_activations": _activations(form, symmetric),
                "output_activations": None,
                "format": stored_as(form),
            }
            for index, ((form, symmetric), modules) in enumerate(schemes.items())
        }
        formats = {stored_as(form) for form, _ in schemes}
        return {
            "quant_method": METHOD,
            "version": VERSION,
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": sorted(left),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def _scales(self, weight: QuantizedWeight) -> npt.NDArray[Any]:
        return scales.cast(weight.scales, self.scale_dtype)


def stored_as(form: WeightFormat) -> str:
    """Which of the formats a weight goes into."""
    if form.numeric == "fp8_e4m3":
        return FLOATS
    return PACKED if form.activation == "none" else INTEGERS


def _arguments(form: WeightFormat) -> dict[str, object]:
    return {
        "num_bits": form.bits,
        "type": "int" if form.numeric == "int" else "float",
        "symmetric": form.sym,
        "strategy": "group" if form.group_size else "channel",
        "group_size": form.group_size or None,
        "dynamic": False,
    }


def _activations(form: WeightFormat, symmetric: bool) -> dict[str, object] | None:
    """What is said of the input: rounded token by token, or on one grid."""
    if form.activation == "none":
        return None
    dynamic = form.activation == "dynamic"
    return {
        "num_bits": 8,
        "type": "int" if form.numeric == "int" else "float",
        "symmetric": dynamic or symmetric,
        "strategy": "token" if dynamic else "tensor",
        "group_size": None,
        "dynamic": dynamic,
    }


def _shape(weight: QuantizedWeight) -> npt.NDArray[np.int64]:
    import numpy as np

    return np.array(weight.spec.shape, np.int64)


def _packed(weight: QuantizedWeight) -> npt.NDArray[np.int32]:
    from .words import pack

    return pack(weight.codes, weight.spec.format.bits)


def _packed_zeros(weight: QuantizedWeight) -> npt.NDArray[np.int32]:
    import numpy as np

    from .words import pack

    columns = pack(np.ascontiguousarray(weight.zeros.T), weight.spec.format.bits)
    return np.ascontiguousarray(columns.T)


def _bytes(weight: QuantizedWeight) -> npt.NDArray[np.uint8]:
    import numpy as np

    return np.ascontiguousarray(weight.codes).reshape(-1)


def _signed(weight: QuantizedWeight) -> npt.NDArray[np.int8]:
    return _about_zero(weight.codes)


def _signed_zeros(weight: QuantizedWeight) -> npt.NDArray[np.int8]:
    return _about_zero(weight.zeros)


def _about_zero(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """8-bit codes about 128 as codes about 0: the top bit flipped."""
    import numpy as np

    return np.ascontiguousarray(codes ^ np.uint8(INT8_MIDDLE)).view(np.int8)


def _grid(weight: QuantizedWeight) -> ActivationGrid:
    assert weight.spec.input is not None  # noqa: S101 - parts() has asked
    return weight.spec.input


def _input_scale(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.array([_grid(weight).scale], np.float32)


def _input_zero(weight: QuantizedWeight) -> npt.NDArray[np.int8]:
    import numpy as np

    return np.array([_grid(weight).zero - INT8_MIDDLE], np.int8)
