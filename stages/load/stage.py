"""The `load` stage: a checkpoint enters the store, byte for byte, once nothing in it is doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.schema import param
from ..base import Context, Result, stage
from ..model.checkpoint import PICKLED, TOKENIZER_FILE, Checkpoint
from ..model.templates import check_templates
from ..model.tokenizer import check_readable
from ..model.weights import network_tensors
from .files import source_files, weight_layout
from .hub import resolve
from .intake import inspect_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .intake import SourceFacts

TIED_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class LoadParams:
    """Which checkpoint is loaded."""

    model: str = param(
        doc="a directory with config.json, tokenizer.json and safetensors, or org/name@revision on the hub",
        in_key=False,
    )
    allow_pickle: bool = param(
        False,
        in_key=False,
        doc="take weights from pytorch_model.bin where there are no safetensors: tensors alone, converted at "
        "once; false, because a pickle is a program, so that reading one needs a person's word",
    )


def files_read(params: LoadParams) -> Mapping[str, Path]:
    """The files whose content decides the output; what the directory is called does not."""
    directory = resolve(params.model, allow_pickle=params.allow_pickle)
    return source_files(directory, allow_pickle=params.allow_pickle)


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
    any_architecture=True,
)
def run(context: Context[LoadParams]) -> Result:
    """Intake, a verbatim copy, then checks on the copy: intake again, finite weights, tokenizer, templates.

    Pickled weights, where they are allowed, are converted instead of copied. Raises IntakeError for whatever
    is wrong with the checkpoint.
    """
    allow_pickle = context.params.allow_pickle
    directory = resolve(context.params.model, allow_pickle=allow_pickle)
    source = inspect_source(directory, allow_pickle=allow_pickle)
    files = source_files(directory, allow_pickle=allow_pickle)
    layout = weight_layout(directory, allow_pickle=allow_pickle)
    if layout is PICKLED:
        from .conversion import convert_pickled

        convert_pickled(context, directory)
        files = {name: path for name, path in files.items() if not is_pickled(name)}
    for done, (name, path) in enumerate(files.items()):
        context.progress(done, len(files), f"copying {name}")
        context.output.copy_in(path, name)
    payload = context.output.payload
    facts = inspect_copy(payload, directory)
    check_values(context, Checkpoint.open(payload), directory)
    check_templates(payload, directory)
    check_readable(payload / TOKENIZER_FILE, directory / TOKENIZER_FILE)
    return Result(facts.identity(), observed={"source": dict(source.source)})


def is_pickled(name: str) -> bool:
    """Whether a file of a source is one of its pickled weights, or their index."""
    return name == PICKLED.index or name.endswith(PICKLED.suffix)


def inspect_copy(copy: Path, source: Path) -> SourceFacts:
    """What the copied files are; raises IntakeError, of the source, where they changed since intake."""
    try:
        return inspect_source(copy)
    except IntakeError as error:
        where = (error.where or "").replace(str(copy), str(source))
        what = f"{error.what}; it changed while it was loaded"
        raise IntakeError(what, where=where, fix="run again") from None


def check_values(context: Context[LoadParams], copy: Checkpoint, source: Path) -> None:
    """Raises IntakeError for NaN or infinite weights, and for a tied tensor that is not the embedding.

    source: the directory that was copied, for messages.
    """
    from .finite import check_finite, check_tied

    tensors = copy.tensors
    infos = [tensors.info(name) for name in network_tensors(copy)]
    total, done = sum(info.nbytes for info in infos), 0
    for info in infos:
        context.progress(done, total, f"checking {info.name}")
        check_finite(info, source / info.file.name)
        done += info.nbytes
    context.progress(total, total, "checked")
    if not copy.outline.is_known:
        return
    model = copy.architecture
    for name in (*((TIED_HEAD,) if model.tied else ()), *model.copies):
        if name in tensors:
            tied = tensors.info(name)
            check_tied(tensors.info(model.embedding), tied, source / tied.file.name)
