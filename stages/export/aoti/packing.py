"""The weights of the programs: floating-point tensors in the compute dtype, codes packed as they are.

Codes of 4 bits and fewer lie two to a byte: the low half holds the first half of a row's features, the high
half the second, so that a product sums two halves and nothing is interleaved.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ....artifacts.tensors import TensorShape
from ...model.blocks import parts
from ...model.checkpoint import Checkpoint
from ...model.families import Architecture
from ...model.quantized import QuantizedCheckpoint
from .joining import Joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...model.families import Rope
    from ...model.quantized import WeightSpec

INDEX, COSINE, SINE = "positions.index", "rotary.cosine", "rotary.sine"
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NAMES = {code: name for name, code in TYPES.items()} | {"I64": "int64", "U8": "uint8"}


@dataclass(frozen=True)
class Packed:
    """How a quantized weight [out, in] is stored: codes uint8 [out, in] or, in halves, [out, in / 2]; scales
    float32 and zeros uint8, [out, groups] each.
    """

    name: str
    group: int
    in_halves: bool

    @staticmethod
    def of(name: str, spec: WeightSpec) -> Packed:
        """The layout of a weight; halves must hold whole groups."""
        features = spec.shape[1]
        group = spec.format.group_size or features
        fits = features % 2 == 0 and (features // 2 % group == 0 or group >= features)
        return Packed(name, group, spec.format.bits <= 4 and fits)

    def multiply(self, tensors: Mapping[str, torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        """[batch, length, in] → [batch, length, out] for many rows: the weight is made, then multiplied."""
        weight = self._weight(*self._stored(tensors))
        return functional.linear(value, weight.to(value.dtype))

    def multiply_few(self, tensors: Mapping[str, torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        """The same for a row or a few: products are summed as codes are read, and no weight is written."""
        codes, scales, zeros = self._stored(tensors)
        wide = value.float()
        if not self.in_halves:
            return self._summed((codes, scales, zeros), wide).to(value.dtype)
        half = [slice(None)] * 2
        if scales.shape[1] > 1:
            middle = scales.shape[1] // 2
            half = [slice(middle), slice(middle, None)]
        low, high = wide.chunk(2, dim=-1)
        first = self._summed((codes & 15, scales[:, half[0]], zeros[:, half[0]]), low)
        second = self._summed((codes >> 4, scales[:, half[1]], zeros[:, half[1]]), high)
        return (first + second).to(value.dtype)

    def rows(self, tensors: Mapping[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
        """The rows of those numbers: int64 [...] → float32 [..., in]."""
        stored = (part[ids.reshape(-1)] for part in self._stored(tensors))
        return self._weight(*stored).reshape(*ids.shape, -1)

    def store(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes uint8 [out, in] as they are stored."""
        if not self.in_halves:
            return codes
        low, high = codes.chunk(2, dim=1)
        return low | (high << 4)

    def _stored(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        codes, scales, zeros = (tensors[f"{self.name}.{part}"] for part in ("codes", "scales", "zeros"))
        return codes, scales, zeros

    def _weight(self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
        """The weight that codes stand for, float32 [out, in]."""
        if self.in_halves:
            codes = torch.cat((codes & 15, codes >> 4), dim=1)
        return self._values(codes, scales, zeros).flatten(1)[:, : codes.shape[1]]

    def _values(self, codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
        """Float32 [out, groups, group], zeros behind the last feature."""
        group = codes.shape[1] if scales.shape[1] == 1 else self.group
        if short := -codes.shape[1] % group:
            codes = functional.pad(codes, (0, short))
        grouped = codes.reshape(codes.shape[0], -1, group).float()
        return (grouped - zeros.float()[:, :, None]) * scales[:, :, None]

    def _summed(self, stored: tuple[torch.Tensor, ...], value: torch.Tensor) -> torch.Tensor:
        """Float32 [batch, length, in] → float32 [batch, length, out]."""
        codes, scales, zeros = stored
        weight = self._values(codes, scales, zeros)
        if short := weight.shape[1] * weight.shape[2] - value.shape[-1]:
            value = functional.pad(value, (0, short))
        rows = value.reshape(*value.shape[:2], 1, weight.shape[1], weight.shape[2])
        return (rows * weight).sum((-1, -2))


def rope_names(rope: Rope) -> tuple[str, str]:
    """What the tables of an embedding are called; two that differ have names that differ."""
    tag = f"{zlib.crc32(repr(rope).encode()):08x}"
    return f"{COSINE}.{tag}", f"{SINE}.{tag}"


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor of the programs: how it is laid out, and what makes it."""

    shape: TensorShape
    make: Callable[[], torch.Tensor]

    def blank(self) -> torch.Tensor:
        """A tensor of this layout whose memory nobody has touched."""
        return torch.empty(self.shape.shape, dtype=getattr(torch, NAMES[self.shape.dtype]))


@dataclass(frozen=True, eq=False)
class Weights:
    """All tensors of the programs, each made when it is written.

    model: the checkpoint's network; `joined` has the one that is computed.  dtype: of what is multiplied.
    longest: positions that the tables cover.
    """

    checkpoint: Checkpoint
    quantized: QuantizedCheckpoint | None
    model: Architecture
    dtype: str
    longest: int

    @functools.cached_property
    def joined(self) -> Joined:
        """The network that the programs compute, and which of the checkpoint's maps it has as one."""
        return Joined.of(self.model, self._alone)

    @functools.cached_property
    def packed(self) -> dict[str, Packed]:
        """The layout of each quantized weight of the joined network."""
        parts = self.joined.parts
        together = {
            name: replace(self._alone[maps[0].name], name=name)
            for name, maps in parts.items()
            if maps[0].name in self._alone
        }
        gone = {each.name for maps in parts.values() for each in maps}
        return {**{name: each for name, each in self._alone.items() if name not in gone}, **together}

    @functools.cached_property
    def _alone(self) -> dict[str, Packed]:
        """The layout of each quantized weight of the checkpoint."""
        specs = self.quantized.quantized if self.quantized else {}
        return {name: Packed.of(name, spec) for name, spec in specs.items()}

    def entries(self) -> list[Entry]:
        """Every tensor, sorted by name, which is the order in which programs take them."""
        found = [*self._maps(), *self._vectors(), *self._tables()]
        return sorted({each.shape.name: each for each in found}.values(), key=lambda each: each.shape.name)

    def _maps(self) -> Iterator[Entry]:
        """What is multiplied or looked up, as [out, in], with biases; codes where it is quantized."""
        for linear in self.joined.model.linears:
            maps = self.joined.parts.get(linear.name, (linear,))
            if linear.name in self.packed:
                yield from self._codes(linear.name, [each.name for each in maps])
            else:
                parts = [self._float(each.name, self.dtype, turned=each.stored_in_out) for each in maps]
                yield _stacked(linear.name, parts)
            if linear.bias is not None:
                biases = [self._float(each.bias, self.dtype) for each in maps if each.bias is not None]
                yield _stacked(linear.bias, biases)
        embedding = self.model.embedding
        if embedding in self.packed:
            yield from self._codes(embedding, [embedding])
        else:
            yield self._float(embedding, self.dtype)

    def _codes(self, name: str, parts: list[str]) -> Iterator[Entry]:
        """The tensors of the codes of one weight, or of several as one."""
        assert self.quantized is not None  # noqa: S101 - it has these weights
        source, packed = self.quantized, self.packed[name]
        specs = [source.quantized[part] for part in parts]
        rows, features, groups = sum(spec.shape[0] for spec in specs), specs[0].shape[1], specs[0].groups
        stored = (rows, features // 2 if packed.in_halves else features)

        def made(field: str) -> torch.Tensor:
            return torch.cat([torch.from_numpy(getattr(source.weight(part), field).copy()) for part in parts])

        yield Entry(TensorShape(f"{name}.codes", "U8", stored), lambda: packed.store(made("codes")))
        yield Entry(TensorShape(f"{name}.scales", "F32", (rows, groups)), lambda: made("scales"))
        yield Entry(TensorShape(f"{name}.zeros", "U8", (rows, groups)), lambda: made("zeros"))

    def _vectors(self) -> Iterator[Entry]:
        """What stays in float32: norms, positions, the bias of the head."""
        model = self.model
        for layer in model.layers:
            attention = layer.attention
            for norm in (
                layer.attention_norm, layer.feed_forward_norm, layer.attention_post_norm,
                layer.feed_forward_post_norm, attention.query_norm, attention.key_norm,
            ):  # fmt: skip
                if norm is not None:
                    yield from self._norm(norm.weight, norm.bias)
        for norm in (model.embedding_norm, model.final_norm):
            if norm is not None:
                yield from self._norm(norm.weight, norm.bias)
        for name in (model.position_embedding, model.head_bias):
            if name is not None:
                yield self._float(name, "float32")

    def _norm(self, *names: str | None) -> Iterator[Entry]:
        for name in names:
            if name is not None:
                yield self._float(name, "float32")

    def _float(self, name: str, dtype: str, *, turned: bool = False) -> Entry:
        tensors = self.checkpoint.tensors
        shape = tensors.info(name).shape

        def make() -> torch.Tensor:
            weight = torch.from_numpy(tensors.float32(name))
            tensors.release(name)
            return (weight.T.contiguous() if turned else weight).to(getattr(torch, dtype))

        return Entry(TensorShape(name, TYPES[dtype], shape[::-1] if turned else shape), make)

    def _tables(self) -> Iterator[Entry]:
        """Positions, and the rotations of each."""
        for layer in self.model.layers:
            rope = layer.attention.rope or self.model.rope
            if rope is not None:
                tables = parts.rotations(rope, self.longest, torch.device("cpu"))
                yield from (_made(*each) for each in zip(rope_names(rope), tables, strict=True))
        # Heads are counted by it too.
        yield _made(INDEX, torch.arange(max(self.longest, self.model.kv_heads)))


def _stacked(name: str, parts: list[Entry]) -> Entry:
    """Tensors one after another along their first axis."""
    first = parts[0].shape
    shape = (sum(part.shape.shape[0] for part in parts), *first.shape[1:])
    return Entry(TensorShape(name, first.dtype, shape), lambda: torch.cat([part.make() for part in parts]))


def _made(name: str, tensor: torch.Tensor) -> Entry:
    dtype = "I64" if tensor.dtype == torch.int64 else "F32"
    return Entry(TensorShape(name, dtype, tuple(tensor.shape)), tensor.contiguous)
