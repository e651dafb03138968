"""How a recipe names a model, ``path@revision+adapter``, and the inputs of the stage that take its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..base import Source

if TYPE_CHECKING:
    from .written import Place

STEM = "model"


class Inputs:
    """Gives each model that a recipe names an input: model1, model2 ... in the order in which they occur.

    folder: where relative paths start.  elsewhere: that is another folder than the one where the pipeline's
    recipe is, so they are made absolute.
    """

    def __init__(self, folder: Path, *, elsewhere: bool = False) -> None:
        self._folder = folder
        self._elsewhere = elsewhere
        self._names: dict[tuple[str, tuple[str, ...]], str] = {}
        self.sources: dict[str, Source] = {}

    def name(self, place: Place) -> str:
        """The input for the model at ``place``; raises RecipeError for what names no model."""
        model, adapters = self._read(place)
        name = self._names.setdefault((model, adapters), f"{STEM}{len(self._names) + 1}")
        self.sources.setdefault(name, Source(model, adapters, origin=place.label))
        return name

    def node(self, node: str, origin: str) -> str:
        """The input for a node of the recipe."""
        name = self._names.setdefault((node, ()), f"{STEM}{len(self._names) + 1}")
        self.sources.setdefault(name, Source(node, (), origin=origin))
        return name

    def written(self) -> dict[str, str]:
        """Input → how a person calls its model, for messages."""
        return {name: "+".join((each.name, *each.adapters)) for name, each in self.sources.items()}

    def _read(self, place: Place) -> tuple[str, tuple[str, ...]]:
        """mergekit writes a model as text, or as {model: {path, revision}, lora: {path, revision}}."""
        if isinstance(place.value, str):
            # A directory may have a plus sign in its name.
            if self._path(place.value).is_dir():
                return self._local(place.value), ()
            model, *adapters = place.text().split("+")
            if not model or not all(adapters):
                raise place.wrong("a model", "write PATH, ORG/NAME@REVISION, or either of them +ADAPTER")
            return self._local(model), tuple(self._local(each) for each in adapters)
        if place.value is None:
            raise place.error("names no model", "write PATH, or ORG/NAME@REVISION")
        keys = ("model", "lora") if "model" in place.mapping() else ("path", "revision")
        place.mapping(*keys)
        if keys[0] == "path":
            return self._local(self._revised(place)), ()
        model, before = self._read(place.child("model"))
        lora = place.child("lora")
        return model, (*before, *(self._read(lora)[:1] if lora.value is not None else ()))

    def _revised(self, place: Place) -> str:
        revision = place.child("revision")
        path = place.child("path").text()
        return path if revision.value is None else f"{path}@{revision.text()}"

    def _path(self, name: str) -> Path:
        return self._folder / Path(name).expanduser()

    def _local(self, name: str) -> str:
        """A directory beside a recipe in another folder as a path that holds anywhere; other names stay."""
        path = self._path(name)
        return str(path.resolve()) if self._elsewhere and path.is_dir() else name


class Given(Inputs):
    """For parameters in which inputs have taken the place of models: each is its own name."""

    def __init__(self) -> None:
        super().__init__(Path())

    def name(self, place: Place) -> str:
        """The input that is named at ``place``."""
        name = place.text()
        self.sources.setdefault(name, Source(name, origin=place.label))
        return name
