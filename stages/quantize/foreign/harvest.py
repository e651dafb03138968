"""From a checkpoint that another library saved to the one quantized form: its codes, exactly as they are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....artifacts.errors import StageError
from ....artifacts.tensors import SafetensorsWriter, TensorShape
from ...model.checkpoint import Checkpoint
from ...model.packed import open_reader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ...model.quantized import QuantizedWeight, WeightSpec

LOST = ("relative_error", "snr_db")


class Harvest:
    """What a library saved, beside the checkpoint that it was given.

    wanted: the weights that it was to quantize. Raises StageError where it quantized others, or otherwise.
    """

    def __init__(self, saved: Path, source: Checkpoint, wanted: Mapping[str, WeightSpec]) -> None:
        self._source = source
        self._saved = Checkpoint.open(saved)
        self._reader = open_reader(self._saved.config, str(saved))
        self.specs = {name: self._spec(name, spec) for name, spec in wanted.items()}
        self._refuse_more(wanted)

    def changed(self) -> list[str]:
        """The tensors that were not to be quantized and have other values now, in their order."""
        names = self._source.tensors.names()
        return [name for name in names if name not in self.specs and self._differs(name)]

    def collect(self, file: Path, taken: list[str]) -> dict[str, object]:
        """Writes codes, scales and zeros, and as float32 the tensors of ``taken``; gives what was observed.

        taken: tensors in floating point that are the library's. Where there are any, weights may be scaled,
        and their difference from the source's says nothing, so it is left out.
        """
        import torch

        from ..weights import evidence_of

        layout = [part for name, spec in self.specs.items() for part in spec.layout(name)]
        layout += [TensorShape(name, "F32", self._saved.tensors.info(name).shape) for name in taken]
        evidence: dict[str, object] = {}
        with file.open("wb") as stream, SafetensorsWriter(stream, layout) as writer:
            for name, spec in self.specs.items():
                weight = self.weight(name)
                for part in ("codes", "scales", "zeros"):
                    writer.write(f"{name}.{part}", getattr(weight, part))
                plain = self._source.tensors.float32(name)
                plain = plain.T if spec.stored_in_out else plain
                found = evidence_of(
                    torch.from_numpy(plain), torch.from_numpy(weight.dequantize()), spec.format
                )
                if taken:
                    found = {key: value for key, value in found.items() if key not in LOST}
                evidence[name] = found
            for name in taken:
                writer.write(name, self._saved.tensors.float32(name))
        return evidence

    def weight(self, name: str) -> QuantizedWeight:
        """A quantized weight as the library saved it."""
        spec = self.specs[name]
        return replace(self._reader.read(_module(name), spec, self._saved.tensors), name=name, spec=spec)

    def _spec(self, name: str, wanted: WeightSpec) -> WeightSpec:
        """How the library stored a weight, which must be what it was asked for."""
        module, tensors = _module(name), self._saved.tensors
        parts = {
            suffix: tensors.info(f"{module}.{suffix}")
            for suffix in self._reader.suffixes
            if f"{module}.{suffix}" in tensors
        }
        if not any(marker in parts for marker in self._reader.markers):
            raise StageError(f"{name} came back in floating point", fix=f"name it in ignore: {name}")
        found = self._reader.spec(module, wanted.shape, parts)
        if (found.format.bits, found.format.group_size) != (wanted.format.bits, wanted.format.group_size):
            what = f"{found.format.bits} bits in groups of {found.format.group_size}"
            raise StageError(f"{name} came back with {what}, which is not what was asked for")
        return replace(wanted, format=replace(found.format, sym=wanted.format.sym))

    def _refuse_more(self, wanted: Mapping[str, WeightSpec]) -> None:
        """Raises StageError for a packed weight that was to stay as it is."""
        for name in self._saved.tensors.names():
            module, _, part = name.rpartition(".")
            if part in self._reader.markers and f"{module}.weight" not in wanted:
                raise StageError(f"{module} was quantized, although it was not to be")

    def _differs(self, name: str) -> bool:
        """Whether a tensor's values are others now, but for the dtype that the library computes in.

        One that is not there, as of a tied head, is the source's.
        """
        import torch

        if name not in self._saved.tensors:
            return False
        dtype = {"BF16": torch.bfloat16, "F16": torch.float16}.get(self._saved.tensors.info(name).dtype)
        before = torch.from_numpy(self._source.tensors.float32(name))
        return not torch.equal(
            torch.from_numpy(self._saved.tensors.float32(name)), before.to(dtype or torch.float32).float()
        )


def _module(name: str) -> str:
    return name.removesuffix(".weight")
