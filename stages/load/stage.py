"""The `load` stage: a checkpoint enters the store, byte for byte, once nothing in it is doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.checkpoint import TOKENIZER_FILE, Checkpoint
from .files import source_files
from .hub import resolve
from .intake import inspect_source
from .weights import expected_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIED_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class LoadParams:
    """Which checkpoint is loaded."""

    model: str = param(
        doc="a directory with config.json, tokenizer.json and safetensors, or org/name@revision on the hub",
        in_key=False,
    )


def files_read(params: LoadParams) -> Mapping[str, Path]:
    """The files whose content decides the output; what the directory is called does not."""
    return source_files(resolve(params.model))


@stage(
    "load",
    params=LoadParams,
    inputs={},
    output="checkpoint",
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Checks a checkpoint and copies it into the store, unchanged",
    reads=files_read,
)
def run(context: Context[LoadParams]) -> Result:
    """Intake, a verbatim copy, then checks on the copy: intake again, finite weights, a readable tokenizer.

    Raises IntakeError for whatever is wrong with the checkpoint.
    """
    directory = resolve(context.params.model)
    source = inspect_source(directory)
    files = source_files(directory)
    for done, (name, path) in enumerate(files.items()):
        context.progress(done, len(files), f"copying {name}")
        context.output.copy_in(path, name)
    payload = context.output.payload
    facts = inspect_source(payload)
    check_weights(context, Checkpoint.open(payload), directory)
    check_readable(payload / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    return Result(facts.identity(), observed={"source": dict(source.source)})


def check_weights(context: Context[LoadParams], copy: Checkpoint, source: Path) -> None:
    """Raises IntakeError for NaN or infinite weights, and for a tied head that is not the embedding.

    source: the directory that was copied, for messages.
    """
    from .finite import check_finite, check_tied

    model, tensors = copy.architecture, copy.tensors
    infos = [tensors.info(name) for name in expected_tensors(model)]
    total, done = sum(info.nbytes for info in infos), 0
    for info in infos:
        context.progress(done, total, f"checking {info.name}")
        check_finite(info, source / info.file.name)
        done += info.nbytes
    context.progress(total, total, "checked")
    if model.tied and TIED_HEAD in tensors:
        head = tensors.info(TIED_HEAD)
        check_tied(tensors.info(model.embedding), head, source / head.file.name)


def check_readable(copy: Path, source: Path) -> None:
    """Raises IntakeError for a tokenizer.json that the tokenizers library does not take; source: as above."""
    import tokenizers

    try:
        tokenizers.Tokenizer.from_file(str(copy))
    except Exception as error:
        raise IntakeError(
            f"tokenizer.json is not one that the tokenizers library {tokenizers.__version__} reads: {error}",
            where=str(source),
            fix="save it again with the transformers that is installed here",
        ) from error
