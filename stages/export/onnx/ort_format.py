"""ONNX files in onnxruntime's own format, for builds of it that read no other, and the operators they need.

The format is a FlatBuffer of a graph that is optimized already: what a phone loads needs no optimizer. Graphs
are optimized without what is laid out for one processor (the NCHWc transformer), and with int8 weights left
as they are: x86 alone wants some of them shifted to uint8. So the files run anywhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ....artifacts.errors import InputError, StageError
from ....targets.runtimes.library import import_onnxruntime, import_operator_tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ....artifacts.outbox import Outbox

# Offsets in a FlatBuffer are signed numbers of 32 bits.
MOST_BYTES = (1 << 31) - 1
PLATFORM_BOUND = ["NchwcTransformer"]
INT8_STAYS = "session.qdqisint8allowed"


def ort_name(name: str) -> str:
    """model.onnx → model.ort."""
    return str(PurePosixPath(name).with_suffix(".ort"))


def write_ort(output: Outbox, job: Path, files: Sequence[str], operators_file: str) -> None:
    """Writes each graph of the payload as .ort, and one list of the operators that all of them need.

    job: where onnxruntime may write first.  Raises InputError when a graph with its weights is above 2 GiB,
    and StageError when onnxruntime cannot write it.
    """
    made = []
    for name in files:
        source = output.payload / name
        beside = source.with_name(f"{source.name}.data")
        size = source.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
        if size > MOST_BYTES:
            raise InputError(
                f"{name} has {size:,} bytes with its weights, and an .ort file holds {MOST_BYTES:,}",
                fix="quantize to fewer bits, or use export.onnx",
            )
        target = job / ort_name(name)
        _convert(source, target)
        output.copy_in(target, target.name)
        made.append(target)
    output.write_text(operators_file, _operators(made, job))
    for path in made:
        path.unlink()


def _convert(source: Path, target: Path) -> None:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry(INT8_STAYS, "1")
    # Packed weights are of one processor, and would be thrown away.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(
            str(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=PLATFORM_BOUND
        )
    except Exception as error:  # its errors have no other common base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(f"onnxruntime does not write {source.name} in its own format: {reason}") from error


def _operators(paths: Sequence[Path], job: Path) -> str:
    """The list that onnxruntime's `build.sh --include_ops_by_config` takes, without the names of sources."""
    tools = import_operator_tools()
    place = job / "operators.config"
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # It leaves the files that it reads open for the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        tools.create_config_from_models(list(paths), place, enable_type_reduction=False)
    lines = place.read_text("utf-8").splitlines()
    place.unlink()
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))
