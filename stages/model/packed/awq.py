"""AWQ's layout, as AutoAWQ's GEMM version writes it: 4-bit codes packed along the output, eight a word.

For a module M: `M.qweight` int32 [in, out/8], `M.qzeros` int32 [groups, out/8], `M.scales` [groups, out]. A
word's nibbles, from the lowest, are the outputs 0, 2, 4, 6, 1, 3, 5, 7 of its eight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import IntakeError
from ....artifacts.tensor_header import TensorShape
from ..quantized import QuantizedWeight, WeightFormat, WeightSpec
from . import scales
from .base import (
    LEAVE,
    Part,
    check_groups,
    check_places,
    check_weight_only,
    expect,
    module_of,
    refused,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from ....artifacts.tensor_header import TensorInfo
    from ....artifacts.tensors import TensorSource
    from ..families import Architecture

    Codes = npt.NDArray[np.uint8]

METHOD = "awq"
BITS = 4
PER_WORD = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class AwqLayout:
    """Writes the layout."""

    scale_dtype: str = "float16"

    def check(self, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
        """See :class:`~.base.Layout`."""
        check_places(METHOD, weights, model)
        sizes: dict[int, str] = {}
        for name, spec in weights.items():
            check_weight_only(METHOD, name, spec)
            check_groups(METHOD, name, spec)
            if spec.format.bits != BITS:
                fix = "use 4 bits, or set export.layout: gptq or compressed-tensors"
                raise refused(METHOD, name, f"{spec.format.bits}-bit weights", fix)
            if name == model.lm_head:
                raise refused(METHOD, name, "output heads", "set quantize.lm_head_bits: 16")
            if spec.stored_in_out:
                raise refused(METHOD, name, "Conv1D weights", "set export.layout: gptq")
            if spec.shape[0] % PER_WORD:
                raise refused(METHOD, name, f"weight of {spec.shape[0]} rows, only multiples of 8", LEAVE)
            other = sizes.setdefault(spec.format.group_size, name)
            if len(sizes) > 1:
                first = next(iter(sizes.values()))
                raise refused(
                    METHOD,
                    other,
                    f"group size beside another ({first} has one)",
                    "choose one for all weights",
                )

    def parts(self, name: str, spec: WeightSpec) -> tuple[Part, ...]:
        """See :class:`~.base.Layout`."""
        module, (out_features, in_features) = module_of(name), spec.shape
        words, dtype = out_features // PER_WORD, scales.DTYPES[self.scale_dtype]

        def steps(weight: QuantizedWeight) -> npt.NDArray[Any]:
            return scales.cast(weight.scales.T, self.scale_dtype)

        return (
            Part(TensorShape(f"{module}.qweight", "I32", (in_features, words)), lambda w: _pack(w.codes)),
            Part(TensorShape(f"{module}.qzeros", "I32", (spec.groups, words)), lambda w: _pack(w.zeros)),
            Part(TensorShape(f"{module}.scales", dtype, (spec.groups, out_features)), steps),
        )

    def config(self, weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object]:
        """See :class:`~.base.Layout`."""
        form = next(iter(weights.values())).format
        return {
            "quant_method": METHOD,
            "version": "gemm",
            "bits": BITS,
            "group_size": form.group_size or -1,
            "zero_point": True,
            "modules_to_not_convert": list(left) or None,
        }


@dataclass(frozen=True)
class AwqReader:
    """Reads the layout. group_size: 0 for whole rows."""

    group_size: int
    method: str = METHOD
    markers: tuple[str, ...] = ("qweight",)
    suffixes: tuple[str, ...] = ("qweight", "qzeros", "scales")

    @staticmethod
    def open(config: Mapping[str, Any], where: str) -> AwqReader:
        """The reader for a `quantization_config`; raises IntakeError for one that is not read."""
        version, bits = str(config.get("version", "gemm")).lower(), config.get("bits", config.get("w_bit"))
        group_size = config.get("group_size", config.get("q_group_size"))
        if version != "gemm" or bits != BITS:
            raise IntakeError(
                f"quantization_config: AWQ weights of {bits} bits in the version {version!r} are not read",
                where=where,
                fix="save it with 4 bits in the version gemm",
            )
        if type(group_size) is not int or group_size == 0 or group_size < -1:
            raise IntakeError(f"quantization_config: group_size {group_size!r} is no size", where=where)
        return AwqReader(max(0, group_size))

    def spec(self, module: str, shape: tuple[int, int], parts: Mapping[str, TensorInfo]) -> WeightSpec:
        """See :class:`~.base.Reader`."""
        spec = WeightSpec(WeightFormat(BITS, self.group_size, sym=False), shape)
        out_features, in_features = shape
        if out_features % PER_WORD:
            raise IntakeError(f"{module}: {out_features} codes of 4 bits do not fill whole words")
        words = out_features // PER_WORD
        expect(module, parts.get("qweight"), "qweight", ("I32",), (in_features, words))
        expect(module, parts.get("qzeros"), "qzeros", ("I32",), (spec.groups, words))
        expect(module, parts.get("scales"), "scales", scales.STORED, (spec.groups, out_features))
        return spec

    def read(self, module: str, spec: WeightSpec, tensors: TensorSource) -> QuantizedWeight:
        """See :class:`~.base.Reader`."""
        import numpy as np

        codes = _unpack(tensors.array(f"{module}.qweight"), spec.shape[0])
        zeros = _unpack(tensors.array(f"{module}.qzeros"), spec.shape[0])
        steps = np.ascontiguousarray(tensors.float32(f"{module}.scales").T)
        return settled(QuantizedWeight(f"{module}.weight", spec, codes, steps, zeros))


def _pack(codes: Codes) -> npt.NDArray[np.int32]:
    """uint8 [out, n] → int32 [n, out/8]."""
    import numpy as np

    from .words import pack

    ordered = codes.reshape(-1, PER_WORD, codes.shape[1])[:, ORDER].reshape(codes.shape)
    return pack(np.ascontiguousarray(ordered.T), BITS)


def _unpack(words: npt.NDArray[np.int32], out_features: int) -> Codes:
    """The inverse of :func:`_pack`: int32 [n, out/8] → uint8 [out, n]."""
    import numpy as np

    from .words import unpack

    ordered = unpack(words, BITS, out_features).T.reshape(-1, PER_WORD, len(words))
    codes = np.empty_like(ordered, order="C")
    codes[:, ORDER] = ordered
    return codes.reshape(out_features, len(words))
