"""`load.adapter`: a LoRA adapter as PEFT saves it enters the store, once nothing in it is doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts.errors import IntakeError
from ...artifacts.schema import param
from ...artifacts.tensors import TensorSource
from ..base import Context, Result, stage
from ..model.adapters import CONFIG_FILE, WEIGHTS_FILE, Adapter, read_config
from ..model.adapters.adapter import of_tensors
from ..model.checkpoint import WeightLayout, present, read_object
from .files import check_case, check_directory, check_inside, source_root
from .hub import Wanted, resolve
from .origin import CARD_FILE, describe_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PICKLED_FILE = "adapter_model.bin"
LAYOUT = WeightLayout(WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", ".safetensors")
SIDECARS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "NOTICE.md")
WANTED = Wanted((CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, *SIDECARS), LAYOUT, (PICKLED_FILE,))


@dataclass(frozen=True)
class LoadAdapterParams:
    """Which adapter is loaded."""

    adapter: str = param(
        doc="a directory with adapter_config.json and adapter_model.safetensors, as PEFT's save_pretrained() "
        "writes it, or org/name@revision on the hub",
        in_key=False,
    )
    allow_pickle: bool = param(
        False,
        in_key=False,
        doc="take weights from adapter_model.bin where there are no safetensors: tensors alone, converted at "
        "once; false, because a pickle is a program, so that reading one needs a person's word",
    )


def files_read(params: LoadAdapterParams) -> Mapping[str, Path]:
    """The files whose content decides the output; what the directory is called does not."""
    directory = resolve(params.adapter, allow_pickle=params.allow_pickle, wanted=WANTED)
    return adapter_files(directory, allow_pickle=params.allow_pickle)


@stage(
    "load.adapter",
    params=LoadAdapterParams,
    inputs={},
    output="adapter",
    version=1,
    determinism="bitwise",
    tools=(),
    summary="Checks a LoRA adapter in PEFT's form and copies it into the store, unchanged",
    reads=files_read,
    any_architecture=True,
)
def run(context: Context[LoadAdapterParams]) -> Result:
    """Intake, a verbatim copy, then checks on the copy: intake again, and finite values.

    Raises IntakeError for whatever is wrong with the adapter, and for what its config asks for that
    `fuse.lora` does not compute, by its key.
    """
    from .finite import check_finite

    params = context.params
    directory = resolve(params.adapter, allow_pickle=params.allow_pickle, wanted=WANTED)
    files = adapter_files(directory, allow_pickle=params.allow_pickle)
    intake(directory, files)
    if PICKLED_FILE in files:
        _convert(context, files.pop(PICKLED_FILE))
    for name, path in files.items():
        context.output.copy_in(path, name)
    payload = context.output.payload
    try:
        adapter = Adapter.open(payload)
    except IntakeError as error:
        where = (error.where or "").replace(str(payload), str(directory))
        what = f"{error.what}; it changed while it was loaded"
        raise IntakeError(what, where=where, fix="run again") from None
    names = adapter.tensors.names()
    for done, name in enumerate(names):
        context.progress(done, len(names), f"checking {name}")
        check_finite(adapter.tensors.info(name), directory / WEIGHTS_FILE)
    context.progress(len(names), len(names), "checked")
    base = read_object(payload / CONFIG_FILE).get("base_model_name_or_path")
    source = {**describe_source(directory), **({"base": base} if isinstance(base, str) else {})}
    return Result(adapter.describe(), observed={"source": source})


def adapter_files(directory: Path, *, allow_pickle: bool) -> dict[str, Path]:
    """What `load.adapter` reads, by name: config, weights, licence; nothing else there matters.

    Raises IntakeError for a directory that does not exist or lacks one, and for a file that is not plain or
    is a symlink out of the source.
    """
    check_directory(directory)
    safe, pickled = (present(directory, (name,)) for name in (WEIGHTS_FILE, PICKLED_FILE))
    config = present(directory, (CONFIG_FILE,))
    weights = safe or (pickled if allow_pickle else ())
    if not config or not weights:
        raise _missing(directory, has_config=bool(config), has_pickle=bool(pickled))
    root = source_root(directory).resolve()
    found = {path.name: path for path in (*config, *weights, *present(directory, SIDECARS))}
    for path in found.values():
        check_inside(path, root)
    check_case(directory, found)
    return found


def intake(directory: Path, files: Mapping[str, Path]) -> Adapter:
    """The adapter in a directory, from its config and headers alone; raises IntakeError."""
    if PICKLED_FILE not in files:
        return Adapter.open(directory)
    from .pickled import read_pickled

    config = read_config(read_object(directory / CONFIG_FILE), str(directory / CONFIG_FILE))
    file = read_pickled(directory / PICKLED_FILE)
    tensors = TensorSource.of_headers({name: file.info(name) for name in file.tensors})
    return of_tensors(directory, config, tensors)


def _missing(directory: Path, *, has_config: bool, has_pickle: bool) -> IntakeError:
    fix = "give the directory that PEFT's save_pretrained() wrote"
    if not has_config:
        return IntakeError(f"it is no adapter: it has no {CONFIG_FILE}", where=str(directory), fix=fix)
    if has_pickle:
        what = f"its weights are pickled ({PICKLED_FILE}), and loading a pickle runs whatever code it holds"
        fix = (
            "if you trust it, set allow_pickle, which takes tensors alone from it; or save it with PEFT again"
        )
        return IntakeError(what, where=str(directory), fix=fix)
    return IntakeError(f"it has no {WEIGHTS_FILE}", where=str(directory), fix=fix)


def _convert(context: Context[LoadAdapterParams], path: Path) -> None:
    """Writes pickled tensors as safetensors, by the process that reads pickles."""
    from .conversion import carry_out
    from .pickled import read_pickled
    from .unpickle import Request

    file = read_pickled(path)
    infos = sorted((file.info(name) for name in file.tensors), key=lambda info: info.name)
    target = context.output.payload / WEIGHTS_FILE
    context.note(f"the weights were pickled ({path.name}) and have been converted to safetensors")
    request = Request(target, tuple(infos), tuple(info.file.resolve() for info in infos))
    carry_out(context, request, sum(info.nbytes for info in infos))
