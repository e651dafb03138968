"""The four kinds of text of a run: where they lie, that they can be used, and that they do not overlap.

calibration gives statistics, training gives gradients, selection chooses between candidates, and evaluation
only measures: a document that is in evaluation and in another is refused, since it would flatter the result,
and so is one that trains and chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.digest import digest_bytes
from ..artifacts.errors import DataError, RecipeError
from ..artifacts.schema import build, param
from ..stages.model.text import read_documents

if TYPE_CHECKING:
    from ..artifacts.yaml import Written
    from ..targets.rules import Setting

EVALUATION = "evaluation"
LEARNING = (TRAINING, SELECTION) = ("training", "selection")
BUNDLED = Path(__file__).parent / "demo" / "data"
BUNDLED_ROLES = ("calibration", EVALUATION)
BUNDLED_ORIGIN = "bundled text"
FORMS = 'name a file of plain text, or of lines such as {"text": "..."}'
# A step may name a text of its own: `training_text` in place of `data.training`.
OWN_SUFFIX = "_text"


@dataclass(frozen=True)
class DataFields:
    """`data:` as it is written; relative paths start at the recipe's folder."""

    calibration: str | None = param(
        None, doc="text that gives statistics; the bundled text when none is given"
    )
    evaluation: str | None = param(
        None, doc="held-out text that only validate opens; the bundled text by default"
    )
    training: str | None = param(
        None, doc="text that gives gradients; stages that need it are refused without"
    )
    selection: str | tuple[str, ...] | None = param(
        None,
        doc="text that chooses, or several, each of which counts the same; by default the last tenth of the "
        "training text",
    )


@dataclass(frozen=True)
class Data:
    """Files by role, absolute, and where they were named. Roles that the recipe leaves out are missing.

    directory: the recipe's, where relative paths start.
    """

    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    directory: Path = Path()

    def texts(self, role: str) -> tuple[Path, ...]:
        """The files of a role: the recipe's, else the bundled one, else none."""
        if role in self.files:
            return self.files[role]
        return (BUNDLED / f"{role}.jsonl",) if role in BUNDLED_ROLES else ()

    def file(self, role: str) -> tuple[Path, str] | None:
        """The only file of a role, and where it was named; or None; raises RecipeError for several."""
        found = self.texts(role)
        if not found:
            return None
        origin = self.origins.get(role, BUNDLED_ORIGIN)
        if len(found) > 1:
            what = f"data.{role} names {len(found)} files where one is taken"
            raise RecipeError(what, where=origin, fix="put them into one file, as JSON lines")
        return found[0], origin


ROLES = tuple(DataFields.__dataclass_fields__)


def read_data(value: Mapping[str, object], written: Written, directory: Path) -> Data:
    """`data:` of a recipe, checked on disk.

    Raises RecipeError for unknown names, DataError for a file that is missing, empty or no file.
    """
    fields = build(DataFields, value, prefix="data", locate=lambda name: written.where("data", name))
    files: dict[str, tuple[Path, ...]] = {}
    origins: dict[str, str] = {}
    for role in ROLES:
        given = getattr(fields, role)
        if given is not None:
            origins[role] = where = written.where("data", role)
            names = (given,) if isinstance(given, str) else given
            if not names:
                raise DataError(f"data.{role}: it names no file", where=where)
            files[role] = tuple(
                _usable(directory / Path(name).expanduser(), f"data.{role}", name, where) for name in names
            )
    return Data(files, origins, directory)


def located(value: object, key: str, where: str | None, data: Data) -> object:
    """The absolute path, or paths, of what a file parameter names; relative ones start at the recipe.

    Raises DataError for a file that is missing, empty or no file.
    """
    if isinstance(value, list | tuple):
        return [located(each, key, where, data) for each in value]
    if not isinstance(value, str):
        return value
    return str(_usable(data.directory / Path(value).expanduser(), key, value, where))


def texts_of(params: object, role: str) -> tuple[Path, ...]:
    """The files of a role that a stage's parameters name; none where it takes no text of that role."""
    given = getattr(params, role, None)
    return tuple(Path(each) for each in (given if isinstance(given, tuple) else (given,)) if each is not None)


def check_length(text: Path, window_tokens: int, where: str) -> None:
    """Raises DataError for an evaluation text that cannot fill one window: a token takes a byte at least.

    Whether a longer text is long enough, only its tokens tell, and the stage that counts them.
    """
    size_bytes = text.stat().st_size
    if size_bytes < window_tokens:
        raise DataError(
            f"data.{EVALUATION}: {text.name} has {size_bytes} bytes, too few for one window of "
            f"{window_tokens} tokens",
            where=where,
            fix="give a longer text; a verdict needs hundreds of windows",
        )


def check_overlap(data: Data, label: str | None = None) -> None:
    """Raises DataError when a document of the evaluation text is also in another text, and when one of the
    selection text trains too.

    label: what the other text is called in messages, where that is not its role under `data`. Documents are
    equal when their text is, without white space at either end. The bundled texts, which are apart by
    construction, are not compared with one another.
    """
    if not data.files:
        return
    why = "measuring on text that was used flatters the result"
    _check_apart(data, EVALUATION, [role for role in ROLES if role != EVALUATION], label, why)
    _check_choosing(data, label)


def _check_choosing(data: Data, label: str | None) -> None:
    """Raises DataError when a document of the selection text trains too."""
    _check_apart(data, SELECTION, [TRAINING], label, "what trains cannot tell when training is too much")


def _check_apart(data: Data, held: str, roles: Iterable[str], label: str | None, why: str) -> None:
    """Raises DataError when a document of the texts of some roles is also in those of ``held``."""
    held_out: dict[str, tuple[int, str]] = {}
    held_origin = data.origins.get(held, BUNDLED_ORIGIN)
    for role in roles if data.texts(held) else ():
        origin = data.origins.get(role, BUNDLED_ORIGIN)
        if BUNDLED_ORIGIN == origin == held_origin:
            continue
        for other in data.texts(role):
            held_out = held_out or _numbered(data.texts(held))
            for number, document in enumerate(read_documents(other), start=1):
                twin = held_out.get(_identity(document))
                if twin is not None:
                    name = label or f"data.{role}"
                    raise DataError(
                        f"{name}: document {number} of {other.name} is also document {twin[0]} of the "
                        f"{held} text {twin[1]}",
                        where=origin,
                        fix=f"take it out of one of them: {why}",
                    )


def with_texts(settings: Iterable[Setting], data: Data, directory: Path) -> tuple[Setting, ...]:
    """The settings with the texts found that steps name for themselves, as `training_text: FILE`.

    directory: where relative paths start. Raises DataError as :func:`read_data` and :func:`check_overlap` do.
    """
    listed = list(settings)
    own = {setting.path: found for setting in listed if (found := _own_text(setting, directory))}
    kept = []
    for setting in listed:
        if setting.path not in own:
            kept.append(setting)
            continue
        label, (path, role) = ".".join(setting.path), own[setting.path]
        beside = {EVALUATION: files} if (files := data.files.get(EVALUATION)) else {}
        check_overlap(Data({**beside, role: (path,)}, {**data.origins, role: setting.origin}), label)
        if role in LEARNING:
            same_step = {r: (p,) for where, (p, r) in own.items() if where[:-1] == setting.path[:-1]}
            texts = {each: files for each, files in {**data.files, **same_step}.items() if each in LEARNING}
            _check_choosing(Data(texts, dict.fromkeys(LEARNING, setting.origin)), label)
        kept.append(replace(setting, value=str(path)))
    return tuple(kept)


def _own_text(setting: Setting, directory: Path) -> tuple[Path, str] | None:
    """The file that a step names for itself, and its role; None for any other setting."""
    name, value = setting.path[-1], setting.value
    role = name.removesuffix(OWN_SUFFIX)
    if name == role or role not in ROLES or not isinstance(value, str) or not value:
        return None
    where = directory / Path(value).expanduser()
    return _usable(where, ".".join(setting.path), value, setting.origin), role


def _numbered(texts: Iterable[Path]) -> dict[str, tuple[int, str]]:
    """Document → its number and its file's name; of equal documents the last."""
    return {
        _identity(document): (number, path.name)
        for path in texts
        for number, document in enumerate(read_documents(path), start=1)
    }


def _identity(document: str) -> str:
    return digest_bytes(document.strip().encode("utf-8", "surrogatepass"))


def _usable(path: Path, key: str, name: str, where: str | None) -> Path:
    if not path.exists():
        raise DataError(f"{key}: there is no file {name!r}", where=where, fix=f"looked at {path}")
    if not path.is_file():
        raise DataError(f"{key}: {name!r} is not a file", where=where, fix=FORMS)
    if path.stat().st_size == 0:
        raise DataError(f"{key}: {name!r} is empty", where=where, fix=FORMS)
    return path.resolve()
