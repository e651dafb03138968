"""Merging beside mergekit, on one thread: CPU seconds, memory, and what copying the same bytes costs.

    python tests/bench/bench_merge.py [--sizes 100M 1.1B] [--mergekit PYTHON] [--merges linear slerp ...]
        [--tools Ingot copying mergekit] [--repeats 1] [--workdir DIR]

Both tools take the same recipe and the same bfloat16 siblings (`make_siblings.py`), each in a process of its
own whose imports count; the inputs are in the page cache. Ingot's process is the stage alone, from opened
inputs to the published artifact, hashed; loading is not in it, nor is mergekit's download. Copying
(`copy_bytes.py`) reads every input byte once and writes as many as the output has. "held" is what the system
cannot take back: the pages of mapped files, which "resident" counts too, it can. --mergekit names an
interpreter that has it (0.1.5). With --workdir, what was measured of another tool is kept, and printed as
"kept" where --tools does not name it.

Bars, at the last size: CPU seconds at most 1/5 of mergekit's for linear and slerp, 1/15 for ties and
dare_ties; at most 0.7 GB held, and at most 10 % more than at the first size; linear at most 1.5 × copying.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts.store import Store
from ingot.stages import base
from machine import Usage, described, spend, working_directory
from make_siblings import SIZES, make
from quantize_rows import THREADS, run_stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COPY = Path(__file__).with_name("copy_bytes.py")
TOOLS = ("Ingot", "copying", "mergekit")
MOST_HELD, MOST_GROWTH, MOST_COPIES = 700_000_000, 1.1, 1.5
# Merge → models, parameters, the share of mergekit's CPU seconds that is allowed.
MERGES: Mapping[str, tuple[Sequence[str], Mapping[str, object], float]] = {
    "linear": (("model1", "model2"), {"weight": (0.6, 0.4)}, 1 / 5),
    "slerp": (("base", "model1"), {"t": 0.4}, 1 / 5),
    "ties": (("model1", "model2", "model3"), {"weight": (0.5, 0.3, 0.2), "density": 0.5}, 1 / 15),
    "dare_ties": (("model1", "model2", "model3"), {"weight": (0.5, 0.3, 0.2), "density": 0.5}, 1 / 15),
}


def main() -> int:
    """Prints a table for each size; 1 when a bar is not met."""
    options = _options()
    if options.child:
        {"load": _load, "merge": _merge}[options.child](*options.arguments)
        return 0
    rows: dict[tuple[str, str, str], Usage] = {}
    with described(), working_directory(options.workdir) as workdir:
        for size in options.sizes:
            _measure(rows, size, options, workdir)
    met = [_bar(*bar) for bar in _bars(rows, options)]
    print(f"bars {'met' if all(met) else 'NOT MET'}")
    return int(not all(met))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["100M", "1.1B"])
    parser.add_argument("--merges", nargs="+", choices=MERGES, default=list(MERGES))
    parser.add_argument("--mergekit", metavar="PYTHON", help="an interpreter that has it")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, help="which to measure")
    parser.add_argument("--repeats", type=int, default=1, help="the least CPU seconds of so many count")
    parser.add_argument("--workdir", type=Path, help="keeps the models; temporary by default")
    parser.add_argument("--child", choices=("load", "merge"), help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(
    rows: dict[tuple[str, str, str], Usage], size: str, options: argparse.Namespace, workdir: Path
) -> None:
    record = workdir / f"{size}.json"
    kept = json.loads(record.read_text()) if record.exists() else {}
    paths = {path.name.removeprefix(f"{size}-"): path for path in make(workdir, size, 3)}
    nbytes = (paths["base"] / "model.safetensors").stat().st_size
    print(f"{size}: {len(paths)} models of {nbytes / 1e6:,.0f} MB")
    heads = f"{'CPU s':>9}{'wall s':>9}{'resident MB':>13}{'held MB':>10}{'CPU over':>10}"
    print(f"{'':<24}{heads}\n{'':<24}{'':>41}{'Ingot':>10}", flush=True)
    used = paths
    with tempfile.TemporaryDirectory(dir=workdir) as temporary:
        scratch = Path(temporary)
        if "Ingot" in options.tools:
            _child("load", scratch / "store", *paths.values())
            used = _only_in_the_store(paths, scratch / "store")
        for merge in options.merges:
            config = scratch / f"{merge}.yml"
            models, parameters, _ = MERGES[merge]
            config.write_text(json.dumps(_recipe(merge, paths, models, parameters)))
            config.with_suffix(".used.yml").write_text(json.dumps(_recipe(merge, used, models, parameters)))
            read = [used[name] for name in models]
            read += [used["base"]] if merge.endswith("ties") else []
            tools = {"Ingot": [sys.executable, __file__, "--child", "merge", config, scratch / "store"]}
            tools["copying"] = [sys.executable, COPY, scratch / "copy", *read]
            if options.mergekit:
                script = "from mergekit.scripts.run_yaml import main; main()"
                tools["mergekit"] = [
                    options.mergekit,
                    "-c",
                    script,
                    config.with_suffix(".used.yml"),
                    scratch / "out",
                    "--quiet",
                ]
            for tool, command in tools.items():
                name = f"{merge} {tool}"
                is_kept = tool not in options.tools
                if is_kept and name not in kept:
                    continue
                row = Usage(**kept[name]) if is_kept else _least(list(map(str, command)), options.repeats)
                rows[size, merge, tool] = row
                kept[name] = vars(row)
                record.write_text(json.dumps(kept))
                ours = rows.get((size, merge, "Ingot"))
                over = f"{row.cpu_seconds / ours.cpu_seconds:10.2f}" if ours else ""
                cells = f"{row.cpu_seconds:9.2f}{row.seconds:9.2f}{row.max_rss_bytes / 1e6:13.0f}"
                held = (row.max_held_bytes or 0) / 1e6
                print(f"{name:<24}{cells}{held:10.0f}{over}{' kept' if is_kept else ''}", flush=True)
                for left in ("copy", "out"):
                    shutil.rmtree(scratch / left, ignore_errors=True)
                    (scratch / left).unlink(missing_ok=True)
    print()


def _only_in_the_store(paths: Mapping[str, Path], store: Path) -> dict[str, Path]:
    """The loaded copies, which all tools read, so that the page cache need not hold the originals too."""
    loaded = json.loads((store / "loaded.json").read_text())
    opened, used = Store.open(store), {}
    for name, path in paths.items():
        with (path / "model.safetensors").open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        artifact = opened.artifact(loaded[str(path)])
        assert artifact is not None
        used[name] = artifact.path
    return used


def _recipe(
    merge: str, paths: Mapping[str, Path], models: Sequence[str], parameters: Mapping[str, object]
) -> dict[str, object]:
    """A recipe of mergekit's; JSON is YAML. parameters: a tuple has a value for each model."""
    own = {name: value for name, value in parameters.items() if isinstance(value, tuple)}
    each = [
        {"model": str(paths[model]), "parameters": {name: value[index] for name, value in own.items()}}
        for index, model in enumerate(models)
    ]
    shared = {name: value for name, value in parameters.items() if name not in own}
    recipe: dict[str, object] = {"merge_method": merge, "models": each, "dtype": "bfloat16"}
    if merge != "linear":
        recipe["base_model"] = str(paths["base"])
    return {**recipe, "parameters": shared} if shared else recipe


def _least(command: Sequence[str], repeats: int) -> Usage:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), **offline}
    return min((spend(command, environment) for _ in range(repeats)), key=lambda usage: usage.cpu_seconds)


def _bars(
    rows: Mapping[tuple[str, str, str], Usage], options: argparse.Namespace
) -> list[tuple[str, float, float]]:
    """What is measured, its value and the most that is allowed."""
    first, last = options.sizes[0], options.sizes[-1]
    bars = []
    for merge in options.merges:
        ours, theirs = rows.get((last, merge, "Ingot")), rows.get((last, merge, "mergekit"))
        if ours is None:
            continue
        if theirs is not None:
            share = ours.cpu_seconds / theirs.cpu_seconds
            bars.append((f"{merge}: CPU seconds over mergekit's", share, MERGES[merge][2]))
        bars.append((f"{merge}: held, GB", ours.max_held_bytes / 1e9, MOST_HELD / 1e9))
        if first != last:
            growth = ours.max_held_bytes / rows[first, merge, "Ingot"].max_held_bytes
            bars.append((f"{merge}: held at {last} over {first}", growth, MOST_GROWTH))
        if merge == "linear":
            copies = ours.cpu_seconds / rows[last, merge, "copying"].cpu_seconds
            bars.append(("linear: CPU seconds over copying", copies, MOST_COPIES))
    return bars


def _bar(what: str, value: float, most: float) -> bool:
    print(f"{what}: {value:.3f} (bar {most:.3f}){'' if value <= most else ' NOT MET'}")
    return value <= most


def _child(what: str, *arguments: Path) -> None:
    spend([sys.executable, __file__, "--child", what, *map(str, arguments)])


def _load(store: Path, *models: Path) -> None:
    """Loads checkpoints into a store, and writes down which artifact each became."""
    opened = Store.open(store)
    found = {str(model): run_stage(opened, "load", {}, {"model": str(model)})[0].digest for model in models}
    (store / "loaded.json").write_text(json.dumps(found))


def _merge(config: Path, store: Path) -> None:
    """Runs the stage `merge`, and nothing else."""
    opened = Store.open(store)
    loaded = json.loads((store / "loaded.json").read_text())
    expand = base.get("merge").expand
    assert expand is not None
    expansion = expand({"config": str(config)}, config.parent, "load")
    inputs = {name: opened.artifact(loaded[source.name]) for name, source in expansion.sources.items()}
    assert all(inputs.values())
    run_stage(opened, "merge", inputs, expansion.values)  # type: ignore[arg-type] # none of them is None


if __name__ == "__main__":
    sys.exit(main())
