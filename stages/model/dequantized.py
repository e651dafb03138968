"""A quantized checkpoint as the plain one that its codes stand for: a weight is made when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...artifacts.tensors import TensorInfo, TensorSource
from .checkpoint import Checkpoint
from .dtypes import with_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from .quantized import QuantizedCheckpoint, QuantizedWeight

BLOCK_ELEMENTS = 1 << 21
# What a quantized checkpoint's facts say of its codes.
OF_CODES = ("method", "weights_by_width", "bits_per_weight", "layout", "weights")


def dequantized(source: QuantizedCheckpoint) -> Checkpoint:
    """The checkpoint: quantized weights first, in float32, then what stayed as it was.

    Its config says float32, so that whoever loads it does not round the weights to what they once were.
    """
    config = with_dtype(source.checkpoint.config, "float32")
    return Checkpoint(source.checkpoint.directory, config, DequantizedTensors(source))


def plain_facts(facts: Mapping[str, object]) -> dict[str, object]:
    """A quantized checkpoint's facts without those of its codes."""
    return {key: value for key, value in facts.items() if key not in OF_CODES}


class DequantizedTensors(TensorSource):
    """(code − zero) · scale, or level · scale, of each weight, as its family stores it; the rest as it is."""

    def __init__(self, source: QuantizedCheckpoint) -> None:
        tensors = source.checkpoint.tensors
        infos = {}
        for name, spec in source.quantized.items():
            codes = tensors.info(f"{name}.codes")
            shape = spec.shape[::-1] if spec.stored_in_out else spec.shape
            infos[name] = TensorInfo(name, "F32", shape, codes.file, codes.start, codes.stop)
        infos |= {name: tensors.info(name) for name in source.float_names()}
        super().__init__(infos, {})
        self._source = source

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes [nbytes]: of a quantized weight new ones, else a read-only view of the map."""
        import numpy as np

        if name in self._source.quantized:
            return self._weight(name).reshape(-1).view(np.uint8)
        return self._source.checkpoint.tensors.raw(name)

    def array(self, name: str) -> npt.NDArray[Any]:
        """The tensor in its own dtype and shape; errors as in :meth:`TensorSource.array`."""
        if name in self._source.quantized:
            return self._weight(name)
        return self._source.checkpoint.tensors.array(name)

    def float32(self, name: str, rows: slice | None = None) -> npt.NDArray[np.float32]:
        """As :meth:`TensorSource.float32`; of a quantized weight, only those rows are made."""
        if name not in self._source.quantized:
            return self._source.checkpoint.tensors.float32(name, rows)
        weight = self._source.weight(name)
        if rows is not None and not weight.spec.stored_in_out:
            return weight.dequantize(rows)
        return self._weight(name)[rows or slice(None)]

    def release(self, name: str) -> None:
        """Lets the system take back what reading this tensor brought in."""
        codes = f"{name}.codes" if name in self._source.quantized else name
        self._source.checkpoint.tensors.release(codes)

    def _weight(self, name: str) -> npt.NDArray[np.float32]:
        return _values(self._source.weight(name))


def _values(weight: QuantizedWeight) -> npt.NDArray[np.float32]:
    """The weight as its checkpoint stores it, made in blocks of rows."""
    import numpy as np

    rows, columns = weight.spec.shape
    found = np.empty((rows, columns), np.float32)
    for block in _blocks(rows, columns):
        found[block] = weight.dequantize(block)
    return np.ascontiguousarray(found.T) if weight.spec.stored_in_out else found


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // columns)
    for start in range(0, rows, step):
        yield slice(start, start + step)
