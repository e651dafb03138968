"""Programs of the bundled model for phones: size, what rounding loses, and emulated ARM processors.

    python tests/bench/bench_mobile.py [--only executorch|graphs|lite] [--tokens 512] [--workdir DIR]

float32, 4 bits rounded to nearest (min-max) and 4 bits by GPTQ, both in groups of 32 with a head of 8 bits,
are lowered by `export.executorch` and measured by `validate.quality` through ExecuTorch on this host, over
the whole bundled evaluation text. The last one also runs on an emulated Cortex-A53 and Cortex-A76 over
`--tokens` of it; `ingot setup arm-emulation` comes first. Instructions are counted; emulated time is not.
Bars: the delegated weights of 4 bits at most 0.17 of those of float32; GPTQ within the gate's 5 % and at most
0.67 of the log-perplexity that rounding loses; the A76 within 0.5 % of this host; the A53 with 1.5 times as
many instructions a token of a prompt as the A76. `graphs`: the int8 graph in both files of
`export.onnx_mobile` on both processors; bar: within 0.5 % of this host. `lite`: programs of the lite
interpreter in float32, dynamic and static int8, on 16,384 tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot.artifacts.store import Store
from ingot.pipeline import demo
from machine import described, working_directory
from quantize_rows import run_stage

if TYPE_CHECKING:
    from ingot.artifacts.manifest import Artifact

FOLDER = Path(str(demo.__file__)).parent
FORMAT: dict[str, object] = {
    "bits": 4, "group_size": 32, "lm_head_bits": 8, "embedding_bits": 8, "head_group_size": 0,
}  # fmt: skip
ROWS: dict[str, tuple[str | None, dict[str, object]]] = {
    "float32": (None, {}),
    "rtn": ("quantize.rtn", {**FORMAT, "scale_search": "minmax"}),
    "gptq": ("quantize.gptq", {**FORMAT, "calibration": str(FOLDER / "data/calibration.jsonl")}),
}
LITE_TOKENS = 16_384
PROCESSORS = ("cortex-a53", "cortex-a76")


def main() -> int:
    """Prints the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="that the emulated processors compute")
    parser.add_argument("--only", choices=("executorch", "graphs", "lite"), help="one part of it")
    parser.add_argument("--workdir", type=Path, help="keeps the artifacts; temporary by default")
    options = parser.parse_args()
    with described(), working_directory(options.workdir) as workdir:
        store = Store.open(workdir / "store")
        parts = {"executorch": _measure, "graphs": _graphs, "lite": _lite}
        chosen = [options.only] if options.only else list(parts)
        failures = [each for name in chosen for each in parts[name](store, options.tokens)]
    for failure in failures:
        print(f"bar not met: {failure}")
    print("bars met" if not failures else f"{len(failures)} bars not met")
    return 1 if failures else 0


def _measure(store: Store, tokens: int) -> list[str]:
    source, _ = run_stage(store, "load", {}, {"model": str(FOLDER / "wikitext-llama-4m")})
    evaluation = str(FOLDER / "data/evaluation.jsonl")
    reference, _ = run_stage(store, "validate.reference", {"model": source}, {"evaluation": evaluation})
    print(f"{'':<9}{'delegated':>11}{'other':>11}{'lowered CPU s':>15}{'perplexity':>12}{'KL':>11}")
    sizes, perplexities, plain = {}, {}, math.nan
    for name, (stage, params) in ROWS.items():
        model = run_stage(store, stage, {"model": source}, params)[0] if stage else source
        began = time.process_time()
        made, _ = run_stage(store, "export.executorch", {"model": model}, {})
        seconds = time.process_time() - began
        quality, _ = run_stage(store, "validate.quality", {"artifact": made, "reference": reference}, {})
        metrics = _document(quality)["metrics"]
        parts: Any = made.facts["bytes_by_part"]
        sizes[name], perplexities[name] = parts["delegated_weights"], metrics["perplexity"]["value"]
        plain = metrics["perplexity"]["reference"]
        print(
            f"{name:<9}{sizes[name]:>11,}{parts['other']:>11,}{seconds:>15.1f}{perplexities[name]:>12.4f}"
            f"{metrics['kl_divergence']['value']:>11.2e}",
            flush=True,
        )
    given = {"artifact": made, "reference": reference}
    emulated = {"tokens": tokens, "processors": list(PROCESSORS), "tolerance_percent": 100.0}
    found = _document(run_stage(store, "validate.emulated_arm", given, emulated)[0])
    return list(_failures(sizes, {k: math.log(v / plain) for k, v in perplexities.items()}, found))


def _failures(sizes: dict[str, int], lost: dict[str, float], found: dict[str, Any]) -> Any:
    """What of the bars is not met."""
    share, kept = sizes["gptq"] / sizes["float32"], lost["gptq"] / lost["rtn"]
    host = found["host"]["perplexity"]
    old, new = (found["emulated"][name] for name in PROCESSORS)
    apart = new["perplexity"] / host - 1
    times = old["instructions_per_token"] / new["instructions_per_token"]
    print(
        f"\n4 bits take {share:.4f} of float32's delegated weights; "
        f"GPTQ loses {kept:.3f} of what rounding does"
    )
    print(f"{found['data']['tokens']} tokens: this host {host:.4f}")
    for name in PROCESSORS:
        print(f"{name}: {found['emulated'][name]}")
    print(f"A76 {100 * apart:+.3f} % of this host's perplexity; A53 {times:.2f} × its instructions")
    if share > 0.17:
        yield f"{share:.4f} of float32's delegated weights"
    if lost["gptq"] > math.log(1.05) or kept > 0.67:
        yield f"GPTQ loses {kept:.3f} of what rounding does"
    if abs(apart) > 0.005:
        yield f"the A76 is {100 * apart:+.3f} % apart"
    if times < 1.5:
        yield f"the A53 takes {times:.2f} × the instructions"


def _graphs(store: Store, tokens: int) -> list[str]:
    """The int8 graph in both of its files, emulated."""
    source, _ = run_stage(store, "load", {}, {"model": str(FOLDER / "wikitext-llama-4m")})
    text = {"evaluation": str(FOLDER / "data/evaluation.jsonl"), "max_tokens": tokens}
    reference, _ = run_stage(store, "validate.reference", {"model": source}, text)
    rounded, _ = run_stage(store, "quantize.dynamic", {"model": source}, {})
    failures = []
    for file in ("ort", "onnx"):
        made, _ = run_stage(store, "export.onnx_mobile", {"model": rounded}, {"run_file": file})
        emulated = {"tokens": tokens, "processors": list(PROCESSORS), "tolerance_percent": 100.0}
        given = {"artifact": made, "reference": reference}
        found = _document(run_stage(store, "validate.emulated_arm", given, emulated)[0])
        host = found["host"]["perplexity"]
        print(f"\nint8 .{file}, {found['data']['tokens']} tokens: this host {host:.4f}")
        for name in PROCESSORS:
            entry = found["emulated"][name]
            apart = 100 * (entry["perplexity"] / host - 1)
            print(
                f"{name}: {apart:+.3f} %, {entry['instructions_per_token']:,} instructions a prompt's token, "
                f"{entry['dot_products_per_token']:,} of them dot products, "
                f"{entry['decode_instructions_per_token']:,} a decoded one",
                flush=True,
            )
            failures += [f"int8 .{file}: the {name} is {apart:+.3f} % apart"] * (abs(apart) > 0.5)
    return failures


def _lite(store: Store, _tokens: int) -> list[str]:
    """Programs of the lite interpreter on this host."""
    source, _ = run_stage(store, "load", {}, {"model": str(FOLDER / "wikitext-llama-4m")})
    text = {"evaluation": str(FOLDER / "data/evaluation.jsonl"), "max_tokens": LITE_TOKENS}
    reference, _ = run_stage(store, "validate.reference", {"model": source}, text)
    calibration: dict[str, object] = {"calibration": str(FOLDER / "data/calibration.jsonl"), "samples": 32}
    print(f"\n{'.ptl':<9}{'bytes':>11}{'perplexity':>12}{'change':>10}{'KL':>11}")
    for name, stage, params, exported in (
        ("float32", None, {}, {}),
        ("dynamic", "quantize.dynamic", {}, {}),
        ("static", "quantize.static", calibration, calibration),
    ):
        model = run_stage(store, stage, {"model": source}, params)[0] if stage else source
        made, _ = run_stage(store, "export.torchscript_mobile", {"model": model}, exported)
        quality, _ = run_stage(store, "validate.quality", {"artifact": made, "reference": reference}, {})
        metrics = _document(quality)["metrics"]
        value, plain = (metrics["perplexity"][side] for side in ("value", "reference"))
        print(
            f"{name:<9}{(made.path / 'model.ptl').stat().st_size:>11,}{value:>12.4f}"
            f"{100 * (value / plain - 1):>+9.3f}%{metrics['kl_divergence']['value']:>11.2e}",
            flush=True,
        )
    return []


def _document(measured: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((measured.path / "measurements.json").read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
