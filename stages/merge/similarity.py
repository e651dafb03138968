"""How alike the models of a merge are, and what it kept of each, layer by layer, on a sample of every tensor.

With b the base, xᵢ the models and y the output, the differences are dᵢ = xᵢ − b. Of each pair of models: the
cosine of their differences, and of the elements in which both differ from the base, the share where they
differ in the same direction. Of each model: how far it is from the base, |dᵢ| / |b|, and of the elements in
which it differs, the share that the output kept: where y − b has the sign of dᵢ.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from .operands import StoredOperand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from ...artifacts.tensors import TensorSource
    from ..model.layout import Layout
    from .task import Operand, TensorTask

    Floats = npt.NDArray[np.float32]
    Sums = npt.NDArray[np.float64]

# Of each tensor: enough that a share of its elements is known to within half a percent.
SAMPLE_ELEMENTS = 1 << 15
PIECES = 8
_NUMBER = re.compile(r"(^|\.)\d+(?=\.)")
_KIND = re.compile(r"\.?(weight|bias)$")


def similarity(
    tasks: Iterable[TensorTask], layout: Layout, output: TensorSource, titles: Mapping[str, str]
) -> dict[str, object]:
    """What is measured of a merge that was written, as plain values; empty where no task has a base.

    layout: of the output's tensors.  titles: input → how a person calls it.  The keys: ``sources``, in the
    order of rows and columns; ``groups``, each of a layer (None outside of layers) and a role, with the
    number of its elements and of those sampled, ``cosine`` and ``sign_agreement`` by pair, ``distance`` and
    ``kept`` by model, and ``moved``, the share of elements in which the output differs from the base. None
    stands for what has no value, such as the cosine of a model that is the base.
    """
    groups: dict[tuple[tuple[str, ...], int | None, str], _Group] = {}
    for task in tasks:
        if task.base is not None and task.output.count:
            names = tuple(each.operand.label.partition(":")[0] for each in task.inputs)
            key = (names, *_place(task.output.name, layout))
            groups.setdefault(key, _Group(len(names))).add(task, output)
    if not groups:
        return {}
    return {
        "sample_elements": SAMPLE_ELEMENTS,
        "groups": [
            {
                "sources": [titles.get(name, name) for name in names],
                "layer": layer,
                "role": role,
                **group.to_json(),
            }
            for (names, layer, role), group in groups.items()
        ],
    }


class _Group:
    """Sums over the tensors of one place; those of a sample are scaled to its tensor."""

    def __init__(self, count: int) -> None:
        self.elements = self.sampled = 0
        self.products: Sums = np.zeros((count, count))
        self.both: Sums = np.zeros((count, count))
        self.agreeing: Sums = np.zeros((count, count))
        self.kept: Sums = np.zeros(count)
        self.moved = self.base = 0.0

    def add(self, task: TensorTask, output: TensorSource) -> None:
        """Samples one tensor."""
        if task.base is None:
            raise ValueError(f"{task.output.name} has no base to compare with")
        spans = _spans(task.output.count)
        base = _read(task.base, spans)
        deltas = np.stack([_read(each.operand, spans) - base for each in task.inputs])
        made = _read(StoredOperand(output, "output", task.output.name), spans) - base
        scale = task.output.count / len(base)
        signs, sign = np.sign(deltas), np.sign(made)
        differs = np.abs(signs)
        self.elements += task.output.count
        self.sampled += len(base)
        self.products += scale * (deltas.astype(np.float64) @ deltas.astype(np.float64).T)
        both, balance = (differs @ differs.T).astype(np.float64), (signs @ signs.T).astype(np.float64)
        self.both += scale * both
        # Of n elements in which both differ, a agree and n − a do not: the signs' product is 2a − n.
        self.agreeing += scale * (both + balance) / 2
        self.kept += scale * np.count_nonzero((signs == sign) & (signs != 0), axis=1)
        self.moved += scale * float(np.count_nonzero(made))
        self.base += scale * float((base.astype(np.float64) ** 2).sum())

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        lengths = np.sqrt(np.diagonal(self.products))
        return {
            "elements": self.elements,
            "sampled": self.sampled,
            "cosine": _table(self.products, np.outer(lengths, lengths)),
            "sign_agreement": _table(self.agreeing, self.both),
            "distance": [_ratio(float(length), self.base**0.5) for length in lengths],
            "kept": [
                _ratio(float(k), float(n)) for k, n in zip(self.kept, np.diagonal(self.both), strict=True)
            ],
            "moved": _ratio(self.moved, self.elements),
        }


def _place(name: str, layout: Layout) -> tuple[int | None, str]:
    """The layer and the role of a tensor; experts of a layer have one role together."""
    for stack in layout.stacks.values():
        if name.startswith(stack.prefix):
            layer, _, place = name.removeprefix(stack.prefix).partition(".")
            if layer.isdigit():
                return int(layer), _role(place)
    return None, _role(name)


def _role(place: str) -> str:
    return _KIND.sub("", _NUMBER.sub("", place)) or place


def _spans(count: int) -> Sequence[tuple[int, int]]:
    """The parts that are read: all, or some pieces from the first element to the last."""
    if count <= SAMPLE_ELEMENTS:
        return ((0, count),)
    size = SAMPLE_ELEMENTS // PIECES
    starts = (piece * (count - size) // (PIECES - 1) for piece in range(PIECES))
    return tuple((start, start + size) for start in starts)


def _read(operand: Operand, spans: Sequence[tuple[int, int]]) -> Floats:
    if isinstance(operand, StoredOperand):
        return np.concatenate([operand.widened(start, stop) for start, stop in spans])
    import torch

    out = torch.empty(sum(stop - start for start, stop in spans))
    place = 0
    for start, stop in spans:
        operand.read(start, stop, out[place : place + stop - start])
        place += stop - start
    found: Floats = out.numpy()
    return found


def _table(over: Sums, under: Sums) -> list[list[float | None]]:
    return [
        [_ratio(float(a), float(b)) for a, b in zip(*rows, strict=True)]
        for rows in zip(over, under, strict=True)
    ]


def _ratio(over: float, under: float) -> float | None:
    return round(over / under, 6) if under else None
