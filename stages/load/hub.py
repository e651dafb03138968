"""From what a recipe calls its model to a directory: a path, or a name and a revision on the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...artifacts.errors import InputError, IntakeError, RequirementError
from ..model.checkpoint import (
    INDEX_FILE,
    PICKLED,
    SAFETENSORS,
    SIDECAR_FILES,
    WEIGHTS_FILE,
    WeightLayout,
)
from .files import check_directory
from .origin import CARD_FILE

HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[^@\s]+)")
# Neither pickles nor code; a repository's other formats (onnx/, gguf) stay where they are.
WANTED = (*SIDECAR_FILES, CARD_FILE, WEIGHTS_FILE, INDEX_FILE, "model-*.safetensors")
PICKLES = (PICKLED.single, PICKLED.index, "pytorch_model-*.bin")


@dataclass(frozen=True)
class Wanted:
    """What is fetched of a repository. files: patterns.  weights: the layout of its safetensors.  pickles:
    patterns of pickled weights, for repositories without.
    """

    files: tuple[str, ...]
    weights: WeightLayout
    pickles: tuple[str, ...]


MODEL = Wanted(WANTED, SAFETENSORS, PICKLES)


def resolve(reference: str, *, allow_pickle: bool = False, wanted: Wanted = MODEL) -> Path:
    """The local directory of a model: ``reference`` itself, or the hub's snapshot of ``org/name@revision``.

    allow_pickle: fetch pickled weights too from a repository that has no safetensors.

    A snapshot that was downloaded before is found without the network; a branch or a tag is looked up where
    the network allows.  Raises IntakeError for a path that is no directory and for a name or a revision that
    the hub does not have, RequirementError when the hub cannot be reached.
    """
    if not reference:
        raise IntakeError("no model is named", fix="name a directory, or org/name@revision on the hub")
    directory = Path(reference).expanduser()
    named = HUB_NAME.fullmatch(reference)
    if named is None or directory.exists():
        check_directory(directory)
        return directory
    found = download(named["repository"], named["revision"], wanted.files)
    if allow_pickle and not wanted.weights.is_in(found):
        return download(named["repository"], named["revision"], (*wanted.files, *wanted.pickles))
    return found


def download(repository: str, revision: str, wanted: tuple[str, ...]) -> Path:
    """The snapshot of a hub repository, in the hub's own cache, of files that match one of ``wanted``.

    Errors as in :func:`resolve`.
    """
    from huggingface_hub import errors, snapshot_download

    where = f"{repository}@{revision}"
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(wanted)))
    except errors.HfHubHTTPError as error:
        raise refusal(error, where) from error
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise RequirementError(
            "the model is not in the hub's cache, and the hub cannot be reached",
            where=where,
            fix=f"connect, or run `hf download {repository} --revision {revision}` where there is a network",
        ) from error
    except Exception as error:
        raise IntakeError(f"the download failed: {first_line(error)}", where=where) from error


def refusal(error: Exception, where: str) -> InputError:
    """What the hub answered, in words."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        what, fix = "access to the model must be granted", "accept its terms on the hub, then `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        what, fix = "the hub has the model, but not this revision", "write a commit, a tag or a branch of it"
    elif isinstance(error, errors.RepositoryNotFoundError):
        what, fix = "the hub has no such model, or it is private", "check the name, or `hf auth login`"
    else:
        what, fix = f"the hub refused: {first_line(error)}", "try again later"
    return IntakeError(what, where=where, fix=fix)


def first_line(error: Exception) -> str:
    """An error's kind and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
