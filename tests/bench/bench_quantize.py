"""Quantizers against one another and against other libraries: perplexity, with paired errors, CPU and memory.

    python tests/bench/bench_quantize.py --model DIR --calibration TEXT --evaluation TEXT
        [--methods NAME ...] [--formats w4g128 w3g128 w2g64a ...] [--windows 128] [--samples 128]
        [--llmcompressor PYTHON] [--gptqmodel PYTHON] [--workdir DIR]

A method is a stage of Ingot (`rtn`, `rtn-minmax`, `gptq`, `awq`, `mixed` with the format's bits on average),
or a library's with the interpreter that has it (`llmcompressor-gptq`, `-awq`, `-rtn`, `gptqmodel-gptq`). A
format is bits and group size, `a` for asymmetric. Everything runs on one thread, all see the same calibration
windows, and one evaluator measures all: torch in float32, of the weights that the codes stand for; output
head and embedding stay as they are. Perplexity is of windows of 256 tokens; "delta" is over the unquantized
model and "over peer" over the library's method of the same name, each with the paired standard error over
windows. With --workdir, rows are kept and only what changed is run again.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts.schema import fields
from ingot.stages import base
from machine import described, working_directory
from quantize_rows import Row, measure, row

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMATS = ("w4g128", "w3g128", "w2g64a")
LIBRARIES = ("llmcompressor", "gptqmodel")
FORMAT = re.compile(r"w([2348])g(\d+)(a?)")


def main() -> int:
    """Prints the table; 1 when a bar is not met."""
    options = _options()
    rows: dict[tuple[str, str], Row] = {}
    with described(), working_directory(options.workdir) as workdir:
        plain = Row(*measure(options.model, options.evaluation, options.windows))
        print(f"{plain.predicted} predicted tokens in {len(plain.nll)} windows\n")
        heads = f"{'perplexity':>12}{'delta %':>10}{'se':>7}{'over peer %':>13}{'se':>7}"
        print(f"{'':<34}{heads}{'CPU s':>9}{'peak MB':>9}{'bits':>7}")
        print(f"{'float32':<34}{plain.perplexity:12.3f}")
        for form in options.formats:
            for method in sorted(options.methods, key=lambda name: not name.startswith(LIBRARIES)):
                stage, params = _stage(method, form, options)
                made = row(options.model, options.evaluation, options.windows, stage, params, workdir)
                rows[method, form] = made
                print(f"{f'{method} {form}':<34}{_cells(made, plain, _peer(rows, method, form))}", flush=True)
        met = [_bar(*bar) for bar in _bars(rows, plain)]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "calibration", "evaluation"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", help="by default all that there are interpreters for")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--windows", type=int, default=128, help="of the evaluation text")
    parser.add_argument("--samples", type=int, default=128, help="windows of the calibration text")
    parser.add_argument("--dtype", default="float32", help="of calibration, ours and theirs")
    for library in LIBRARIES:
        parser.add_argument(f"--{library}", metavar="PYTHON", default="", help="an interpreter that has it")
    parser.add_argument("--workdir", type=Path, help="keeps rows and store; temporary by default")
    options = parser.parse_args()
    if options.methods is None:
        own = [name for name in ("rtn", "gptq", "awq") if f"quantize.{name}" in base.names()]
        peers = [
            f"{library}-{algorithm}"
            for library, algorithms in (("llmcompressor", ("rtn", "gptq", "awq")), ("gptqmodel", ("gptq",)))
            for algorithm in algorithms
            if getattr(options, library)
        ]
        options.methods = ["rtn-minmax", *own, *peers]
    return options


def _stage(method: str, form: str, options: argparse.Namespace) -> tuple[str, dict[str, object]]:
    """The stage of a method and its parameters for a format."""
    match = FORMAT.fullmatch(form)
    if match is None:
        raise SystemExit(f"{form} is not a format such as w4g128 or w2g64a")
    name, _, variant = method.partition("-")
    stage = f"quantize.{name}"
    known = fields(base.get(stage).params)
    wanted: dict[str, object] = {
        "bits": int(match[1]), "group_size": int(match[2]), "sym": not match[3],
        "lm_head_bits": 16, "embedding_bits": 16, "samples": options.samples, "window": 256,
        "calibration": str(options.calibration.absolute()), "compute_dtype": options.dtype,
    }  # fmt: skip
    if name in LIBRARIES:
        python = Path(getattr(options, name)).absolute()
        wanted |= {"algorithm": variant, "python": str(python)}
    elif name == "rtn":
        wanted["scale_search"] = variant or "mse"
    elif name == "mixed":
        wanted["bits_per_weight"] = float(wanted.pop("bits"))  # type: ignore[arg-type]
    return stage, {key: value for key, value in wanted.items() if key in known}


def _peer(rows: Mapping[tuple[str, str], Row], method: str, form: str) -> Row | None:
    """The first library's row that Ingot's method of that name and format is held against."""
    name = method.partition("-")[0]
    found = [rows.get((f"{library}-{name}", form)) for library in LIBRARIES]
    return next((each for each in found if each is not None), None) if name not in LIBRARIES else None


def _cells(made: Row, plain: Row, peer: Row | None) -> str:
    cells = f"{made.perplexity:12.3f}{_percent(*made.above(plain))}"
    cells += _percent(*made.above(peer), width=13) if peer else " " * 20
    return f"{cells}{made.cpu_seconds:9.1f}{made.max_rss_bytes / 1e6:9.0f}{made.bits_per_weight:7.2f}"


def _percent(difference: float, error: float, width: int = 10) -> str:
    """A difference of log-perplexities as that of perplexities, in percent, and its standard error."""
    return f"{math.expm1(difference) * 100:+{width}.2f}{error * 100:7.2f}"


def _bars(rows: Mapping[tuple[str, str], Row], plain: Row) -> list[tuple[str, float, float]]:
    """Label, value and the most that it may be, for each bar whose rows are there."""
    bars = []
    for method in ("gptq", "awq"):
        for form in ("w4g128", "w3g128"):
            made, peer = rows.get((method, form)), _peer(rows, method, form)
            if made and peer:
                difference, error = made.above(peer)
                margin = error if (method, form) == ("gptq", "w3g128") else 0.0
                bars.append((f"{method} {form}: log-perplexity over the library's", difference, -margin))
        made, peer = rows.get((method, "w4g128")), _peer(rows, method, "w4g128")
        if made and peer:
            most = {"gptq": 0.85, "awq": 1 / 6}[method] * peer.cpu_seconds
            bars.append((f"{method}: CPU seconds", made.cpu_seconds, most))
    mixed, uniform = rows.get(("mixed", "w3g128")), rows.get(("gptq", "w3g128"))
    if mixed and uniform:
        difference, error = mixed.above(uniform)
        bars.append(("mixed w3g128: log-perplexity over one width for all", difference, -2 * error))
    made, naive = rows.get(("gptq", "w2g64a")), rows.get(("rtn-minmax", "w2g64a"))
    if made and naive:
        bars.append(("gptq w2g64a: log-perplexity lost", made.above(plain)[0], 0.3 * naive.above(plain)[0]))
    return bars


def _bar(label: str, value: float, most: float) -> bool:
    print(f"{label}: {value:.4f}, at most {most:.4f}{'' if value <= most else ': NOT MET'}")
    return value <= most


if __name__ == "__main__":
    sys.exit(main())
