"""`ingot bench`: measure deliveries, or artifacts of the store, beside each other through their runtime."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...artifacts.errors import RecipeError, nearest
from .options import json_option, store_option

if TYPE_CHECKING:
    from collections.abc import Iterable

AXES = ("batch", "sequence")
AXIS = re.compile(r"(\w+)=([1-9]\d*(?:,[1-9]\d*)*)")
NAMES = re.compile(r"\w+(?:,\w+)*")


@click.command("bench", short_help="Measure load, prefill, decode and memory.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--prefill-tokens", default=128, show_default=True, type=click.IntRange(1), help="Of the prompt."
)
@click.option("--decode-tokens", default=32, show_default=True, type=click.IntRange(1), help="After it.")
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(1), help="Fresh processes a model."
)
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="AXIS[=N,...]",
    help="Also measure every batch with every sequence: --sweep batch=1,2,4 --sweep sequence=32,128; "
    "or --sweep batch,sequence for the sizes of the models' profiles.",
)  # fmt: skip
@click.option(
    "--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]),
    help="Where ONNX graphs run; other artifacts are of one device.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="Compute threads; physical cores when not given.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page of figures.")
@store_option
@json_option
def bench_command(
    models: tuple[str, ...],
    prefill_tokens: int,
    decode_tokens: int,
    repeats: int,
    sweeps: tuple[str, ...],
    device: str,
    threads: int | None,
    html: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Measure each MODEL (a delivery's directory, or an artifact's digest), taking turns between them."""
    from ...stages.validate.cost import CostParams
    from ..bench import bench, sweep_sizes, to_json
    from ..locate import model_directory
    from .bench_view import show_bench
    from .progress import counter

    axes = sweep_axes(sweeps)
    directories = {name: model_directory(name, store) for name in models}
    sizes = {name: found or sweep_sizes(directories.values(), name) for name, found in axes.items()}
    params = CostParams(
        prefill_tokens=prefill_tokens, decode_tokens=decode_tokens, repeats=repeats, threads=threads or 0,
        sweep_batch=sizes.get("batch", ()), sweep_sequence=sizes.get("sequence", ()), device=device,
    )  # fmt: skip
    with counter("measuring, part") as progress:
        measured = bench(directories, params, progress)
    if html is not None:
        from ...targets.host import probe
        from ..report.bench_page import write_page
        from ..run import command_line, environment

        write_page(measured, html, command=command_line(), environment=environment(probe()))
    if as_json:
        click.echo(json.dumps(to_json(measured), indent=2))
    else:
        show_bench(measured)
        if html is not None:
            click.echo(f"figures: {html}")


def sweep_axes(options: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`batch=1,2` as {"batch": (1, 2)}, `batch,sequence` as {"batch": (), "sequence": ()}.

    Raises RecipeError for another form, an unknown axis or one twice.
    """
    axes: dict[str, tuple[int, ...]] = {}
    for option in options:
        written = option.replace(" ", "")
        match = AXIS.fullmatch(written)
        if match is None and not NAMES.fullmatch(written):
            raise RecipeError(
                f"--sweep: {option!r} is not an axis with numbers from 1 on",
                fix="write batch=1,2,4, or batch,sequence for the sizes of the models' profiles",
            )
        for name in [match[1]] if match else written.split(","):
            if name not in AXES:
                guess = nearest(name, AXES)
                fix = f"did you mean {guess}?" if guess else f"axes are {' and '.join(AXES)}"
                raise RecipeError(f"--sweep: there is no axis {name!r}", fix=fix)
            if name in axes:
                raise RecipeError(f"--sweep: {name} is given twice", fix=f"write {name}=1,2,4 in one option")
            axes[name] = tuple(int(number) for number in match[2].split(",")) if match else ()
    return axes
