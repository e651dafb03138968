"""The bitsandbytes layout of 4-bit NormalFloat weights (QLoRA, arXiv:2305.14314), as transformers saves it.

For a weight W: `W` uint8 [parameters/2, 1], two codes a byte, the first in the high half; `W.absmax`, the
scales in the order of the weight's blocks, float32, or uint8 where they are quantized themselves; then also
`W.nested_absmax` float32, a scale for each block of 256 of them, and `W.nested_quant_map` float32 [256], what
their codes stand for. `W.quant_map` float32 [16] holds the levels, `W.quant_state.bitsandbytes__nf4` the rest
as JSON.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import IntakeError
from ....artifacts.tensor_header import TensorShape
from ..levels import dynamic_levels, levels
from ..quantized import SCALES_PER_BLOCK, QuantizedWeight, WeightFormat, WeightSpec
from .base import Part, check_groups, check_places, expect, module_of, refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ....artifacts.tensor_header import TensorInfo
    from ....artifacts.tensors import TensorSource
    from ..families import Architecture

METHOD = "bitsandbytes"
STATE = "weight.quant_state.bitsandbytes__nf4"
# What its kernels take.
BLOCKS = (64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class BitsandbytesLayout:
    """Writes the layout. dtype: what its kernels compute in, as the checkpoint's config has it."""

    dtype: str = "float32"
    scale_dtype: str = "float32"

    def check(self, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
        """See :class:`~.base.Layout`."""
        check_places(METHOD, weights, model)
        forms = {spec.format for spec in weights.values()}
        for name, spec in weights.items():
            if spec.format.numeric != "nf4":
                fix = "set export.layout: compressed-tensors, or quantize with nf4"
                raise refused(METHOD, name, f"{spec.format.width} weights", fix)
            check_groups(METHOD, name, spec)
            if spec.format.group_size not in BLOCKS:
                fix = f"choose a group_size of {', '.join(map(str, BLOCKS))}"
                raise refused(METHOD, name, f"groups of {spec.format.group_size}", fix)
            if spec.stored_in_out:
                raise refused(METHOD, name, "Conv1D weights", "choose another target for this family")
            if len(forms) > 1:
                raise refused(METHOD, name, "two formats of weights", "choose one for all weights")

    def parts(self, name: str, spec: WeightSpec) -> tuple[Part, ...]:
        """See :class:`~.base.Layout`."""
        module_of(name)
        count, form = spec.shape[0] * spec.groups, spec.format
        found = [
            Part(TensorShape(name, "U8", (spec.parameters // 2, 1)), _pack),
            Part(TensorShape(f"{name}.quant_map", "F32", (16,)), lambda _: levels("nf4")),
        ]
        if form.double_quantized:
            blocks = (spec.scale_blocks,)
            found += [
                Part(TensorShape(f"{name}.absmax", "U8", (count,)), _scale_codes),
                Part(TensorShape(f"{name}.nested_absmax", "F32", blocks), _scale_scales),
                Part(TensorShape(f"{name}.nested_quant_map", "F32", (256,)), lambda _: dynamic_levels()),
            ]
        else:
            found.append(Part(TensorShape(f"{name}.absmax", "F32", (count,)), _scales))
        # The offset of the scales is part of the JSON, so its length is known with the weight alone: it is
        # written at a fixed length, which JSON's white space allows.
        state = TensorShape(f"{module_of(name)}.{STATE}", "U8", (len(self._state(spec, 0.0)),))
        found.append(Part(state, self._state_of))
        return tuple(found)

    def config(self, weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object]:
        """See :class:`~.base.Layout`."""
        form = next(iter(weights.values())).format
        return {
            "quant_method": METHOD,
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": form.double_quantized,
            "bnb_4bit_compute_dtype": self.dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": list(left) or None,
        }

    def _state(self, spec: WeightSpec, offset: float) -> bytes:
        """The JSON of a weight's state, padded to the length that any offset fits."""
        values: dict[str, object] = {
            "quant_type": "nf4",
            "blocksize": spec.format.group_size,
            "dtype": self.dtype,
            "shape": list(spec.shape),
        }
        if spec.format.double_quantized:
            values |= {
                "nested_blocksize": SCALES_PER_BLOCK,
                "nested_dtype": "float32",
                "nested_offset": offset,
            }
        text = json.dumps(values)
        return text.encode().ljust(len(json.dumps(values | {"nested_offset": 0.0})) + 32)

    def _state_of(self, weight: QuantizedWeight) -> npt.NDArray[np.uint8]:
        import numpy as np

        offset = 0.0 if weight.scale_offset is None else float(weight.scale_offset[0])
        return np.frombuffer(self._state(weight.spec, offset), np.uint8)


@dataclass(frozen=True)
class BitsandbytesReader:
    """Reads the layout. double_quantized: scales are codes too; they are read as what those stand for, which
    depends on the table that is stored beside them.
    """

    double_quantized: bool
    method: str = METHOD
    markers: tuple[str, ...] = ("weight.absmax",)
    suffixes: tuple[str, ...] = (
        "weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
        STATE,
    )  # fmt: skip

    @staticmethod
    def open(config: Mapping[str, Any], where: str) -> BitsandbytesReader:
        """The reader for a `quantization_config`; raises IntakeError for one that is not read."""
        kind = config.get("bnb_4bit_quant_type", "fp4")
        if not config.get("load_in_4bit") or kind != "nf4":
            what = kind if config.get("load_in_4bit") else "LLM.int8"
            raise IntakeError(
                f"quantization_config: bitsandbytes weights of the type {what} are not read, only nf4",
                where=where,
                fix="start from the unquantized model",
            )
        return BitsandbytesReader(bool(config.get("bnb_4bit_use_double_quant")))

    def spec(self, module: str, shape: tuple[int, int], parts: Mapping[str, TensorInfo]) -> WeightSpec:
        """See :class:`~.base.Reader`."""
        count = math.prod(shape)
        expect(module, parts.get("weight"), "weight", ("U8",), (-(-count // 2), 1))
        scales = parts["weight.absmax"]
        blocks = math.prod(scales.shape)
        size = count // blocks if blocks and count % blocks == 0 else 0
        if size not in BLOCKS or shape[1] % size:
            raise IntakeError(
                f"{module}: {blocks} scales for {count} weights in rows of {shape[1]}: blocks that "
                "reach over rows are not read",
                fix="start from the unquantized model",
            )
        spec = WeightSpec(WeightFormat(4, size, sym=True, numeric="nf4"), shape)
        expect(module, scales, "weight.absmax", ("U8" if self.double_quantized else "F32",), (blocks,))
        expect(module, parts.get("weight.quant_map"), "weight.quant_map", ("F32",), (16,))
        if self.double_quantized:
            nested = parts.get("weight.nested_absmax")
            expect(module, nested, "weight.nested_absmax", ("F32",), (-(-blocks // SCALES_PER_BLOCK),))
            expect(module, parts.get("weight.nested_quant_map"), "weight.nested_quant_map", ("F32",), (256,))
        if STATE not in parts:
            raise IntakeError(f"{module} lacks its {STATE}", fix="download the checkpoint again")
        return spec

    def read(self, module: str, spec: WeightSpec, tensors: TensorSource) -> QuantizedWeight:
        """See :class:`~.base.Reader`."""
        import numpy as np

        name, rows = f"{module}.weight", (spec.shape[0], spec.groups)
        state = _state(module, spec, tensors, nested=self.double_quantized)
        if not np.array_equal(tensors.float32(f"{name}.quant_map"), levels("nf4")):
            raise IntakeError(f"{name}.quant_map holds other levels than NF4's")
        packed = tensors.array(name).reshape(-1)
        codes = np.empty((len(packed), 2), np.uint8)
        np.right_shift(packed, 4, out=codes[:, 0])
        np.bitwise_and(packed, 15, out=codes[:, 1])
        if self.double_quantized:
            table = tensors.float32(f"{name}.nested_quant_map")
            values = table[tensors.array(f"{name}.absmax").reshape(-1)]
            block = np.arange(values.size) // SCALES_PER_BLOCK
            scales = values * tensors.float32(f"{name}.nested_absmax")[block]
            scales += np.float32(state["nested_offset"])
        else:
            scales = tensors.float32(f"{name}.absmax")
        zeros = np.zeros(rows, np.uint8)
        return QuantizedWeight(name, spec, codes.reshape(spec.shape), scales.reshape(rows), zeros)


def _state(module: str, spec: WeightSpec, tensors: TensorSource, *, nested: bool) -> dict[str, Any]:
    """A weight's state; raises IntakeError where it contradicts the headers."""
    text = bytes(tensors.raw(f"{module}.{STATE}"))
    try:
        state: dict[str, Any] = json.loads(text)
        shape, size = tuple(state["shape"]), state["blocksize"]
        per_scale = state["nested_blocksize"] if nested else SCALES_PER_BLOCK
        float(state["nested_offset"] if nested else 0)
    except (ValueError, KeyError, TypeError) as error:
        raise IntakeError(f"{module}.{STATE} is no state of a weight: {error}") from None
    if shape != spec.shape or size != spec.format.group_size or per_scale != SCALES_PER_BLOCK:
        raise IntakeError(
            f"{module}.{STATE} says {list(shape)} in blocks of {size}, but the tensors are "
            f"{list(spec.shape)} in blocks of {spec.format.group_size}"
        )
    return state


def _pack(weight: QuantizedWeight) -> npt.NDArray[np.uint8]:
    import numpy as np

    pairs = np.ascontiguousarray(weight.codes).reshape(-1, 2)
    return (pairs[:, :1] << np.uint8(4)) | pairs[:, 1:]


def _scales(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.ascontiguousarray(weight.scales).reshape(-1)


def _scale_codes(weight: QuantizedWeight) -> npt.NDArray[np.uint8]:
    import numpy as np

    assert weight.scale_codes is not None  # noqa: S101 - the format says that they are there
    return np.ascontiguousarray(weight.scale_codes).reshape(-1)


def _scale_scales(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    import numpy as np

    assert weight.scale_scales is not None  # noqa: S101 - as above
    return np.ascontiguousarray(weight.scale_scales)
