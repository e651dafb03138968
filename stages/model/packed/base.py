"""What the layouts share: how one says which tensors stand in a weight's place, and how it is read back."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ....artifacts.errors import CorruptError, InputError, IntakeError
from ....artifacts.tensor_header import TensorShape
from ..patterns import catastrophe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from ....artifacts.tensor_header import TensorInfo
    from ....artifacts.tensors import TensorSource
    from ..families import Architecture
    from ..quantized import QuantizedWeight, WeightSpec

    Make = Callable[[QuantizedWeight], npt.NDArray[Any]]

WEIGHT = ".weight"
WORD_BITS = 32
LEAVE = "leave it in floating point: name it in quantize.ignore"


@dataclass(frozen=True)
class Part:
    """One tensor of those that stand in a weight's place. make: its elements, of the weight."""

    shape: TensorShape
    make: Make


class Layout(Protocol):
    """A layout to write: what it holds, which tensors, and what config.json says of them.

    scale_dtype: what scales are stored as: `float32`, `float16` or `bfloat16`.
    """

    @property
    def scale_dtype(self) -> str:
        """See the class."""

    def check(self, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
        """Raises InputError for weights that the layout cannot hold, with what to do instead."""

    def parts(self, name: str, spec: WeightSpec) -> tuple[Part, ...]:
        """The tensors that stand in the place of the weight ``name``; each fits :meth:`check`."""

    def config(self, weights: Mapping[str, WeightSpec], left: Sequence[str]) -> dict[str, object]:
        """The `quantization_config` of config.json. left: modules of weights that stay in floating point."""


class Reader(Protocol):
    """A layout to read. markers, suffixes: tensors behind a module's name, of which one of the former tells
    that its weight is packed, and all of the latter belong to it.
    """

    @property
    def method(self) -> str:
        """The layout's name, as config.json has it."""

    @property
    def markers(self) -> tuple[str, ...]:
        """See the class."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """See the class."""

    def spec(self, module: str, shape: tuple[int, int], parts: Mapping[str, TensorInfo]) -> WeightSpec:
        """How a module's weight is stored, from headers; shape: [out, in] by the architecture.

        parts: the module's tensors by suffix. Raises IntakeError for what does not fit or is not read.
        """

    def read(self, module: str, spec: WeightSpec, tensors: TensorSource) -> QuantizedWeight:
        """The weight, exactly; its spec says more than the headers did. Raises IntakeError as above."""


def word_count(codes: int, bits: int) -> int:
    """How many 32-bit words so many codes fill."""
    return -(-codes * bits // WORD_BITS)


def module_of(name: str) -> str:
    """The module that has the weight ``name``: layouts name its tensors after it."""
    if not name.endswith(WEIGHT):
        raise InputError(
            f"{name}: other programs know quantized weights by the name .weight alone",
            fix=LEAVE,
        )
    return name.removesuffix(WEIGHT)


def refused(layout: str, name: str, what: str, fix: str) -> InputError:
    """The error for a weight that a layout cannot hold."""
    return InputError(f"{name}: the {layout} layout holds no {what}", fix=fix)


def check_places(layout: str, weights: Mapping[str, WeightSpec], model: Architecture) -> None:
    """Raises InputError for quantized embeddings, which loaders of these layouts do not look up in."""
    for name in weights:
        module_of(name)
        if name in model.embeddings:
            tied = " and quantize.lm_head_bits: 16, as the head is the embedding" if model.tied else ""
            raise refused(layout, name, "embeddings", f"set quantize.embedding_bits: 16{tied}")


def check_groups(layout: str, name: str, spec: WeightSpec) -> None:
    """Raises InputError for groups that do not divide a row."""
    size = spec.format.group_size
    if size and spec.shape[1] % size:
        fix = f"choose a group_size that divides {spec.shape[1]}, or 0 for a whole row"
        raise refused(layout, name, f"groups of {size} in rows of {spec.shape[1]}", fix)


def check_weight_only(layout: str, name: str, spec: WeightSpec) -> None:
    """Raises InputError for anything but integer weights with activations in floating point."""
    form = spec.format
    if form.numeric != "int":
        other = "bitsandbytes" if form.numeric == "nf4" else "compressed-tensors"
        raise refused(layout, name, f"{form.width} weights", f"set export.layout: {other}")
    if form.activation != "none":
        fix = "set export.layout: compressed-tensors, or quantize weights alone"
        raise refused(layout, name, f"{form.activation} activations", fix)


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression of a config; raises IntakeError for one that is none or can take forever."""
    reason = catastrophe(pattern)
    if reason is None:
        try:
            return re.compile(pattern)
        except re.error as error:
            reason = f"is none: {error}"
    raise IntakeError(f"quantization_config: the pattern {pattern[:80]!r} {reason}", where=where)


def expect(module: str, info: TensorInfo | None, what: str, dtypes: Sequence[str], *shapes: object) -> None:
    """Raises IntakeError unless a part is there, has one of the dtypes and one of the shapes."""
    if info is None:
        raise IntakeError(f"{module} lacks its {what}", fix="download the checkpoint again")
    if info.dtype not in dtypes or info.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)  # type: ignore[call-overload]
        raise IntakeError(
            f"{info.name} is {info.dtype} {list(info.shape)}, not {'/'.join(dtypes)} {expected}",
            where=str(info.file),
            fix="check that config.json and the weights are of the same model",
        )


def settled(weight: QuantizedWeight) -> QuantizedWeight:
    """The weight, sym where all of its zero points are the middle code, whatever a config says of it."""
    middle = 2 ** (weight.spec.format.bits - 1)
    form = replace(weight.spec.format, sym=bool((weight.zeros == middle).all()))
    return replace(weight, spec=replace(weight.spec, format=form))


def check_codes(weight: QuantizedWeight) -> None:
    """Raises CorruptError for codes beyond their bits, and for zero points that contradict the record: what
    is not symmetric would be packed as if it were.
    """
    form = weight.spec.format
    highest = int(weight.codes.max(initial=0))
    if highest >= 2**form.bits:
        raise CorruptError(f"{weight.name} holds the code {highest} in {form.bits} bits")
    if form.numeric != "int":
        return
    if form.sym and not (weight.zeros == 2 ** (form.bits - 1)).all():
        middle = 2 ** (form.bits - 1)
        raise CorruptError(f"{weight.name} is called symmetric, but its zero points are not all {middle}")
    if int(weight.zeros.max(initial=0)) >= 2**form.bits:
        raise CorruptError(f"{weight.name} holds a zero point beyond {form.bits} bits")
