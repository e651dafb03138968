"""Reads the compressed-tensors layout: which scheme a module has, and its codes, scales and zero points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ....artifacts.errors import IntakeError
from ..levels import E4M3_NAN
from ..quantized import ActivationGrid, QuantizedWeight, WeightFormat, WeightSpec
from . import scales
from .base import compiled, expect, settled, word_count
from .compressed import FLOATS, INT8_MIDDLE, INTEGERS, METHOD, PACKED

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from ....artifacts.tensor_header import TensorInfo
    from ....artifacts.tensors import TensorSource

FORMATS = (PACKED, INTEGERS, FLOATS, "naive-quantized")
STRATEGIES = ("tensor", "channel", "group", "block")
CLASS = "Linear"
REGEX = "re:"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Scheme:
    """One group of `config_groups`. targets: names and, compiled, patterns; is_class: all linear maps."""

    weights: Settings
    inputs: Settings | None
    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]
    is_class: bool


@dataclass(frozen=True)
class CompressedReader:
    """Reads the layout."""

    schemes: tuple[Scheme, ...]
    where: str
    method: str = METHOD
    markers: tuple[str, ...] = ("weight_packed", "weight_scale")
    suffixes: tuple[str, ...] = (
        "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "weight",
        "input_scale", "input_zero_point",
    )  # fmt: skip

    @staticmethod
    def open(config: Settings, where: str) -> CompressedReader:
        """The reader for a `quantization_config`; raises IntakeError for one that is not read."""
        groups = config.get("config_groups")
        for key, what in (("kv_cache_scheme", "a quantized cache"), ("transform_config", "transforms")):
            if config.get(key):
                raise IntakeError(f"quantization_config: {what} ({key}) is not read", where=where)
        sparsity = config.get("sparsity_config") or {}
        if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
            raise IntakeError(
                f"quantization_config: sparse weights ({sparsity['format']}) are not read", where=where
            )
        if not isinstance(groups, Mapping) or not groups:
            raise IntakeError("quantization_config: it has no config_groups", where=where)
        schemes = tuple(
            _scheme(group, str(config.get("format")), f"{where}: config_groups.{name}")
            for name, group in groups.items()
        )
        return CompressedReader(schemes, where)

    def spec(self, module: str, shape: tuple[int, int], parts: Mapping[str, TensorInfo]) -> WeightSpec:
        """See :class:`~.base.Reader`."""
        scheme = self._scheme(module)
        if "weight_g_idx" in parts:
            raise IntakeError(
                f"{module}: its groups are not consecutive input features (actorder: group)",
                fix="quantize it again with actorder: static, or start from the unquantized model",
            )
        spec = WeightSpec(_format(module, scheme), shape)
        steps = parts.get("weight_scale")
        expect(module, steps, "weight_scale", scales.STORED, *_scale_shapes(scheme.weights, spec))
        if "weight_packed" in parts:
            packed = (shape[0], word_count(shape[1], spec.format.bits))
            padded = (shape[0], _padded_words(shape[1], spec.format.bits))
            expect(module, parts["weight_packed"], "weight_packed", ("I32",), packed, padded)
        else:
            dtype = "I8" if spec.format.numeric == "int" else "F8_E4M3"
            expect(module, parts.get("weight"), "weight", (dtype,), shape)
        if spec.format.activation == "static":
            expect(module, parts.get("input_scale"), "input_scale", scales.STORED, (1,), ())
        return spec

    def read(self, module: str, spec: WeightSpec, tensors: TensorSource) -> QuantizedWeight:
        """See :class:`~.base.Reader`."""
        import numpy as np

        weights = self._scheme(module).weights
        codes, zeros = _codes(module, spec, tensors), _zeros(module, spec, tensors)
        steps = _spread(tensors.float32(f"{module}.weight_scale"), weights, spec)
        zeros = np.full(steps.shape, 2 ** (spec.format.bits - 1), np.uint8) if zeros is None else zeros
        if spec.format.numeric == "int":
            zeros = np.ascontiguousarray(_spread(zeros, weights, spec))
        else:
            zeros = np.zeros(steps.shape, np.uint8)
        spec = replace(spec, input=_grid(module, spec, tensors))
        found = QuantizedWeight(f"{module}.weight", spec, codes, np.ascontiguousarray(steps), zeros)
        return settled(found) if spec.format.numeric == "int" else found

    def _scheme(self, module: str) -> Scheme:
        """The scheme of a module: by its name, else by a pattern, else by its class."""
        named = (scheme for scheme in self.schemes if module in scheme.names)
        matched = (each for each in self.schemes if any(p.match(module) for p in each.patterns))
        of_class = (scheme for scheme in self.schemes if scheme.is_class)
        for found in (named, matched, of_class):
            for scheme in found:
                return scheme
        raise IntakeError(f"{module} is packed, but no group of config_groups targets it", where=self.where)


def _scheme(group: object, default: str, where: str) -> Scheme:
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise IntakeError("its weights are not said", where=where)
    form = str(group.get("format") or default)
    if form not in FORMATS:
        raise IntakeError(f"weights of the format {form!r} are not read", where=where)
    if group.get("output_activations"):
        raise IntakeError("quantized outputs are not read", where=where)
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise IntakeError("its targets are not a list of names", where=where)
    patterns = tuple(compiled(t.removeprefix(REGEX), where) for t in targets if t.startswith(REGEX))
    inputs = group.get("input_activations")
    return Scheme(
        group["weights"],
        inputs if isinstance(inputs, Mapping) else None,
        frozenset(targets),
        patterns,
        CLASS in targets,
    )


def _format(module: str, scheme: Scheme) -> WeightFormat:
    weights, strategy = scheme.weights, scheme.weights.get("strategy")
    bits, kind, size = weights.get("num_bits"), weights.get("type", "int"), weights.get("group_size")
    if strategy is None:
        strategy = "tensor" if size is None else "group" if size > 0 else "channel"
    if strategy not in STRATEGIES or (kind, bits) not in (("float", 8), *(("int", b) for b in (2, 3, 4, 8))):
        raise IntakeError(f"{module}: {bits}-bit {kind} weights by {strategy} are not read")
    if strategy == "block":
        structure = weights.get("block_structure")
        size = structure[1] if isinstance(structure, list) and len(structure) == 2 else None
    if strategy in ("group", "block") and (type(size) is not int or size < 1):
        raise IntakeError(f"{module}: a group_size of {size!r} is no size")
    return WeightFormat(
        int(str(bits)),
        int(str(size)) if strategy in ("group", "block") else 0,
        sym=bool(weights.get("symmetric", True)),
        activation=_activation(module, scheme, kind),
        numeric="int" if kind == "int" else "fp8_e4m3",
    )


def _activation(module: str, scheme: Scheme, kind: str) -> str:
    """The activation scheme of a module; raises IntakeError for those that the quantized form cannot say."""
    inputs = scheme.inputs
    if inputs is None:
        return "none"
    if inputs.get("num_bits") != 8 or inputs.get("type", "int") != kind:
        raise IntakeError(f"{module}: {inputs.get('num_bits')}-bit {inputs.get('type')} inputs are not read")
    if inputs.get("dynamic"):
        return "dynamic"
    if kind == "float" or inputs.get("strategy", "tensor") != "tensor":
        raise IntakeError(f"{module}: static {kind} inputs by {inputs.get('strategy')} are not read")
    return "static"


def _scale_shapes(weights: Settings, spec: WeightSpec) -> Iterator[tuple[int, ...]]:
    """The shapes that a weight's scales may have."""
    strategy = weights.get("strategy")
    if strategy == "block":
        rows = weights["block_structure"][0]
        yield (-(-spec.shape[0] // rows), spec.groups)
        return
    if strategy in ("tensor", None) and not spec.format.group_size:
        yield (1,)
        yield (1, 1)
        yield ()
    if strategy != "tensor":
        yield (spec.shape[0], spec.groups)
        if not spec.format.group_size:
            yield (spec.shape[0],)


def _spread(values: npt.NDArray[Any], weights: Settings, spec: WeightSpec) -> npt.NDArray[Any]:
    """One value for each row and group [out, groups], of values for a tensor, rows, or blocks of rows."""
    import numpy as np

    if weights.get("strategy") == "block":
        return np.repeat(values, weights["block_structure"][0], axis=0)[: spec.shape[0]]
    flat = values.reshape(-1, spec.groups) if values.size != 1 else values.reshape(1, 1)
    return np.broadcast_to(flat, (spec.shape[0], spec.groups))


def _codes(module: str, spec: WeightSpec, tensors: TensorSource) -> npt.NDArray[np.uint8]:
    import numpy as np

    bits = spec.format.bits
    if f"{module}.weight_packed" in tensors:
        words = tensors.array(f"{module}.weight_packed")
        if f"{module}.weight_shape" in tensors:
            stated = tuple(tensors.array(f"{module}.weight_shape").tolist())
            if stated != spec.shape:
                raise IntakeError(f"{module}.weight_shape is {stated}, config.json asks for {spec.shape}")
        return _unpacked(module, words, bits, spec.shape[1])
    if spec.format.numeric == "int":
        # Stored about 0, in eight bits whatever their width.
        signed = tensors.array(f"{module}.weight").astype(np.int16) + 2 ** (bits - 1)
        if signed.min(initial=0) < 0 or signed.max(initial=0) >= 2**bits:
            raise IntakeError(f"{module}.weight holds integers beyond {bits} bits")
        return np.asarray(signed, np.uint8)
    codes = tensors.raw(f"{module}.weight").reshape(spec.shape)
    if (codes & E4M3_NAN == E4M3_NAN).any():
        raise IntakeError(f"{module}.weight holds NaN", fix="the checkpoint is broken: quantize it again")
    return codes


def _unpacked(module: str, words: npt.NDArray[np.int32], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Codes [rows, count] of words [rows, n]: a stream of bits or, as releases up to 0.9 have it where the
    bits do not divide a word's, whole codes in each word with its uppermost bits left at 0.
    """
    import numpy as np

    from .words import unpack

    stream = unpack(words, bits, count) if words.shape[1] == word_count(count, bits) else None
    if words.shape[1] != _padded_words(count, bits) or 32 % bits == 0:
        assert stream is not None  # noqa: S101 - spec() has checked that it is one of the two
        return stream
    per_word = 32 // bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = (unsigned[:, :, None] >> shifts) & np.uint32(2**bits - 1)
    padded = codes.reshape(len(words), -1)[:, :count].astype(np.uint8)
    if stream is None or np.array_equal(stream, padded):
        return padded
    if (unsigned >> np.uint32(per_word * bits)).any():
        return stream
    raise IntakeError(
        f"{module}: its {bits}-bit codes can be read in two ways, and nothing says which is meant"
    )


def _padded_words(count: int, bits: int) -> int:
    return -(-count // (32 // bits))


def _zeros(module: str, spec: WeightSpec, tensors: TensorSource) -> npt.NDArray[np.uint8] | None:
    """Zero points as codes, [out, groups] or as many as there are scales; None where none are stored."""
    import numpy as np

    name = f"{module}.weight_zero_point"
    if name not in tensors or spec.format.numeric != "int":
        return None
    info, bits = tensors.info(name), spec.format.bits
    if info.dtype == "I32" and f"{module}.weight_packed" in tensors:
        columns = np.ascontiguousarray(tensors.array(name).T)
        rows = spec.shape[0]
        expect(
            module,
            info,
            "weight_zero_point",
            ("I32",),
            (word_count(rows, bits), spec.groups),
            (_padded_words(rows, bits), spec.groups),
        )
        return np.ascontiguousarray(_unpacked(module, columns, bits, rows).T)
    expect(module, info, "weight_zero_point", ("I8",), tensors.info(f"{module}.weight_scale").shape)
    return np.asarray(tensors.array(name).astype(np.int16) + 2 ** (bits - 1), np.uint8)


def _grid(module: str, spec: WeightSpec, tensors: TensorSource) -> ActivationGrid | None:
    if spec.format.activation != "static":
        return None
    scale = float(tensors.float32(f"{module}.input_scale").reshape(-1)[0])
    name = f"{module}.input_zero_point"
    zero = int(tensors.array(name).reshape(-1)[0]) if name in tensors else 0
    try:
        return ActivationGrid(scale, zero + INT8_MIDDLE)
    except ValueError as error:
        raise IntakeError(f"{module}: {error}") from None
