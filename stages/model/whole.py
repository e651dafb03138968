"""A checkpoint with factored and shared layers written out whole: the form that every loader takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...artifacts.tensors import SafetensorsWriter, TensorShape
from .checkpoint import CONFIG_FILE, Checkpoint
from .families.compact import Compact, first_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from ...artifacts.tensor_writer import Stream


@dataclass(frozen=True, eq=False)
class Whole:
    """Reads a checkpoint as if nothing were factored or shared. Products are float32; all else is as stored.

    turned: weights that are stored as [in, out].
    """

    checkpoint: Checkpoint
    compact: Compact
    turned: frozenset[str]

    @staticmethod
    def of(checkpoint: Checkpoint) -> Whole:
        """The view of a checkpoint; raises IntakeError for a config that contradicts itself."""
        compact = Compact.of(checkpoint.config, str(checkpoint.directory / CONFIG_FILE))
        linears = checkpoint.architecture.linears if compact.factored else ()
        turned = frozenset(linear.name for linear in linears if linear.stored_in_out)
        return Whole(checkpoint, compact, turned)

    @property
    def config(self) -> dict[str, object]:
        """The config.json of the whole network."""
        return Compact().config(self.checkpoint.config)

    def shapes(self) -> list[TensorShape]:
        """The tensors of the whole network, in the order of the checkpoint."""
        firsts = {first_name(name) for name in self.compact.factored}
        names = [name for name in self.checkpoint.tensors.names() if name not in firsts]
        return [self._shape(name) for name in names]

    def save(self, stream: Stream, progress: Callable[[int, int, str], None]) -> None:
        """Writes them as safetensors, one at a time."""
        shapes = self.shapes()
        with SafetensorsWriter(stream, shapes) as writer:
            for done, shape in enumerate(shapes):
                progress(done, len(shapes), shape.name)
                stored = self.compact.resolved(shape.name)
                writer.write(shape.name, self._elements(stored))
                self.checkpoint.tensors.release(stored)

    def _shape(self, name: str) -> TensorShape:
        tensors, stored = self.checkpoint.tensors, self.compact.resolved(name)
        info = tensors.info(stored)
        if stored not in self.compact.factored:
            return TensorShape(name, info.dtype, info.shape)
        first = tensors.info(first_name(stored)).shape
        left, right = (first, info.shape) if stored in self.turned else (info.shape, first)
        return TensorShape(name, "F32", (left[0], right[1]))

    def _elements(self, stored: str) -> npt.NDArray[Any]:
        import numpy as np

        tensors = self.checkpoint.tensors
        if stored not in self.compact.factored:
            return tensors.raw(stored)
        second, first = (tensors.float32(name).astype(np.float64) for name in (stored, first_name(stored)))
        found: npt.NDArray[np.float64] = first @ second if stored in self.turned else second @ first
        return found.astype(np.float32)
