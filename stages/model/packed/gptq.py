"""GPTQ's layout, as AutoGPTQ and GPTQModel write it: codes packed along the input, zeros along the output.

For a module M: `M.qweight` int32 [in·bits/32, out], `M.qzeros` int32 [groups, out·bits/32], `M.scales`
[groups, out], `M.g_idx` int32 [in], each input feature's group. Version 1 (`checkpoint_format: gptq`) stores
a zero point less one, so it cannot say 0; version 2 (`gptq_v2`) stores it as it is. GPT-2's Conv1D is stored
like any linear map.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import InputError, IntakeError
from ....artifacts.tensor_header import TensorShape
from ..quantized import QuantizedWeight, WeightFormat, WeightSpec
from . import scales
from .base import (
    LEAVE,
    Part,
    check_groups,
    check_places,
    check_weight_only,
    compiled,
    expect,
    module_of,
    refused,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from ....artifacts.tensor_header import TensorInfo
    from ....artifacts.tensors import TensorSource
    from ..families import Architecture

METHOD = "gptq"
VERSIONS = {"gptq": 1, "gptq_v2": 2}
BITS = (2, 3, 4, 8)
# Kernels read 32 rows and 32 columns at a time, and 3-bit codes fill whole words 32 at a time.
MULTIPLE = 32


@dataclass(frozen=True)
class GptqLayout:
    """Writes the layout. checkpoint_format: `gptq`, `gptq_v2`, or `auto`: the latter of these where a weight
    is not symmetric, since the former has no zero point of 0.
    """

    scale_dtype: str = "float16"
    checkpoint_format: str = "auto"
    asymmetric: bool = False

    def check(self, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
        """See :class:`~.base.Layout`."""
        check_places(METHOD, weights, model)
        for name, spec in weights.items():
            check_weight_only(METHOD, name, spec)
            check_groups(METHOD, name, spec)
            if spec.format.bits not in BITS:
                raise refused(METHOD, name, f"{spec.format.bits}-bit weights", "use 2, 3, 4 or 8 bits")
            if any(size % MULTIPLE for size in spec.shape):
                what = f"weight of {spec.shape[0]} by {spec.shape[1]}, only multiples of {MULTIPLE}"
                raise refused(METHOD, name, what, LEAVE)

    def of(self, weights: Mapping[str, WeightSpec]) -> GptqLayout:
        """The layout with its version settled for these weights."""
        asymmetric = not all(spec.format.sym for spec in weights.values())
        wanted = self.checkpoint_format
        chosen = wanted if wanted != "auto" else "gptq_v2" if asymmetric else "gptq"
        return replace(self, checkpoint_format=chosen, asymmetric=asymmetric)

    def parts(self, name: str, spec: WeightSpec) -> tuple[Part, ...]:
        """See :class:`~.base.Layout`."""
        module, (out_features, in_features), bits = module_of(name), spec.shape, spec.format.bits
        words, zero_words = in_features * bits // 32, out_features * bits // 32
        dtype = scales.DTYPES[self.scale_dtype]
        return (
            Part(TensorShape(f"{module}.qweight", "I32", (words, out_features)), _qweight),
            Part(TensorShape(f"{module}.qzeros", "I32", (spec.groups, zero_words)), self._qzeros),
            Part(TensorShape(f"{module}.scales", dtype, (spec.groups, out_features)), self._scales),
            Part(TensorShape(f"{module}.g_idx", "I32", (in_features,)), _g_idx),
        )

    def config(self, weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object]:
        """See :class:`~.base.Layout`. Weights of other formats than most, and those left in floating point,
        are rules under `dynamic`, as GPTQModel and vLLM read them.
        """
        forms: dict[WeightFormat, int] = {}
        for spec in weights.values():
            forms[spec.format] = forms.get(spec.format, 0) + spec.parameters
        usual = max(forms, key=lambda form: forms[form])
        rules: dict[str, object] = {}
        for name, spec in weights.items():
            if spec.format != usual:
                rules[f"+:^{re.escape(module_of(name))}$"] = _values(spec.format)
        rules.update({f"-:^{re.escape(module)}$": {} for module in left if module != "lm_head"})
        return {
            "quant_method": METHOD,
            **_values(usual),
            "desc_act": False,
            "static_groups": True,
            "true_sequential": True,
            "lm_head": "lm_head.weight" in weights,
            "checkpoint_format": self.checkpoint_format,
            "pack_dtype": "int32",
            **({"dynamic": rules} if rules else {}),
        }

    def _qzeros(self, weight: QuantizedWeight) -> npt.NDArray[np.int32]:
        import numpy as np

        from .words import pack

        zeros = weight.zeros
        if VERSIONS[self.checkpoint_format] == 1:
            if not zeros.all():
                raise InputError(
                    f"{weight.name} has a zero point of 0, which version 1 of the GPTQ layout cannot say",
                    fix="set export.checkpoint_format: gptq_v2",
                )
            zeros = zeros - np.uint8(1)
        return pack(np.ascontiguousarray(zeros.T), weight.spec.format.bits)

    def _scales(self, weight: QuantizedWeight) -> npt.NDArray[Any]:
        return scales.cast(weight.scales.T, self.scale_dtype)


@dataclass(frozen=True)
class GptqReader:
    """Reads the layout. bits, group_size: of most weights, group_size 0 for whole rows.  rules: (pattern,
    settings) for others, the first that matches a module's name; settings None where it is not quantized.
    """

    bits: int
    group_size: int
    version: int
    rules: tuple[tuple[re.Pattern[str], Mapping[str, object] | None], ...] = ()
    method: str = METHOD
    markers: tuple[str, ...] = ("qweight",)
    suffixes: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")

    @staticmethod
    def open(config: Mapping[str, Any], where: str) -> GptqReader:
        """The reader for a `quantization_config`; raises IntakeError for one that is not read."""
        name = config.get("checkpoint_format", config.get("format", "gptq"))
        if name not in VERSIONS or config.get("is_marlin_format"):
            what = "marlin" if config.get("is_marlin_format") else name
            raise IntakeError(
                f"quantization_config: GPTQ weights in the form {what!r} are not read",
                where=where,
                fix="save it as gptq or gptq_v2 with the program that wrote it",
            )
        bits, group_size = _form(config, where)
        rules = tuple(
            _rule(pattern, value, where) for pattern, value in (config.get("dynamic") or {}).items()
        )
        return GptqReader(bits, group_size, VERSIONS[name], rules)

    def spec(self, module: str, shape: tuple[int, int], parts: Mapping[str, TensorInfo]) -> WeightSpec:
        """See :class:`~.base.Reader`."""
        bits, group_size = self._own(module)
        spec = WeightSpec(WeightFormat(bits, group_size, sym=False), shape)
        out_features, in_features = shape
        for size in shape:
            if size * bits % 32:
                raise IntakeError(f"{module}: {size} codes of {bits} bits do not fill whole words")
        expect(module, parts.get("qweight"), "qweight", ("I32",), (in_features * bits // 32, out_features))
        zeros = (spec.groups, out_features * bits // 32)
        expect(module, parts.get("qzeros"), "qzeros", ("I32",), zeros)
        expect(module, parts.get("scales"), "scales", scales.STORED, (spec.groups, out_features))
        if "g_idx" in parts:
            expect(module, parts["g_idx"], "g_idx", ("I32",), (in_features,))
        return spec

    def read(self, module: str, spec: WeightSpec, tensors: TensorSource) -> QuantizedWeight:
        """See :class:`~.base.Reader`. Raises IntakeError for groups that are not consecutive input features,
        and in version 1 for a zero point whose stored value has all bits set, of which programs differ.
        """
        import numpy as np

        from .words import unpack

        bits = spec.format.bits
        if f"{module}.g_idx" in tensors:
            _check_groups(module, tensors.array(f"{module}.g_idx"), spec)
        codes = unpack(np.ascontiguousarray(tensors.array(f"{module}.qweight").T), bits, spec.shape[1])
        zeros = unpack(tensors.array(f"{module}.qzeros"), bits, spec.shape[0])
        if self.version == 1:
            if (zeros == 2**bits - 1).any():
                raise IntakeError(
                    f"{module}.qzeros holds {2**bits - 1}, a zero point of {2**bits} to some programs and of "
                    "0 to others: version 1 of the layout cannot say which",
                    fix="save it as gptq_v2 with the program that wrote it",
                )
            zeros += np.uint8(1)
        steps = tensors.float32(f"{module}.scales")
        return settled(
            QuantizedWeight(
                f"{module}.weight",
                spec,
                codes,
                np.ascontiguousarray(steps.T),
                np.ascontiguousarray(zeros.T),
            )
        )

    def _own(self, module: str) -> tuple[int, int]:
        for pattern, settings in self.rules:
            if pattern.match(module):
                if settings is None:
                    raise IntakeError(f"{module} is packed, but config.json says that it is not quantized")
                merged = {"bits": self.bits, "group_size": self.group_size or -1, **settings}
                return _form(merged, module)
        return self.bits, self.group_size


def _values(form: WeightFormat) -> dict[str, object]:
    return {"bits": form.bits, "group_size": form.group_size or -1, "sym": form.sym}


def _qweight(weight: QuantizedWeight) -> npt.NDArray[np.int32]:
    import numpy as np

    from .words import pack

    return np.ascontiguousarray(pack(weight.codes, weight.spec.format.bits).T)


def _g_idx(weight: QuantizedWeight) -> npt.NDArray[np.int32]:
    import numpy as np

    return np.arange(weight.spec.shape[1], dtype=np.int32) // (
        weight.spec.format.group_size or weight.spec.shape[1]
    )


def _form(config: Mapping[str, object], where: str) -> tuple[int, int]:
    """Bits and group size, 0 for whole rows."""
    bits, group_size = config.get("bits"), config.get("group_size")
    if bits not in BITS:
        raise IntakeError(f"quantization_config: bits {bits!r} is not one of 2, 3, 4, 8", where=where)
    if type(group_size) is not int or group_size == 0 or group_size < -1:
        raise IntakeError(f"quantization_config: group_size {group_size!r} is no size", where=where)
    return int(bits), max(0, group_size)


def _rule(written: str, value: object, where: str) -> tuple[re.Pattern[str], Mapping[str, object] | None]:
    """One entry of `dynamic`: `-:pattern` is not quantized, `+:pattern` or `pattern` otherwise."""
    sign, text = (written[:2], written[2:]) if written[:2] in ("-:", "+:") else ("+:", written)
    if not isinstance(value, dict):
        raise IntakeError(f"quantization_config: the rule {written[:80]!r} has no settings", where=where)
    return compiled(text, where), None if sign == "-:" else value


def _check_groups(module: str, groups: npt.NDArray[np.int32], spec: WeightSpec) -> None:
    """Raises IntakeError unless group g holds the input features from g·size on."""
    import numpy as np

    expected = np.arange(spec.shape[1]) // (spec.format.group_size or spec.shape[1])
    if not np.array_equal(groups, expected):
        raise IntakeError(
            f"{module}.g_idx: its groups are not consecutive input features (act-order without static "
            "groups), and no exporter here, nor a kernel of onnxruntime, takes weights in such groups",
            fix="quantize it again with static_groups or desc_act: false, or start from the unquantized one",
        )
