"""The gate on real pairs and in simulation: how often it is wrong, and how often it cannot tell.

python tests/bench/bench_gate.py [--record]

Real pairs are the bundled model on the bundled evaluation text: exported as it is, in int8, and rounded so
coarsely that perplexity rises by about 2 %. Each is held to +1 %, with all documents and with 200 resamplings
of them; the int8 artifact, measured twice, is held against itself. Simulated documents follow the measured
spreads: per-document loss 0.5 nat, quantization noise 0.08 nat a document. `--record` writes the sums of the
real pairs by document to tests/data/gate_pairs.json, on which the fast tests run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ingot.artifacts.schema import build
from ingot.artifacts.store import Store
from ingot.pipeline import measurements
from ingot.pipeline.gate import evaluate
from ingot.pipeline.graph import GateRule
from ingot.pipeline.measurements import Measured, Measurements
from ingot.pipeline.rules import read_bound
from ingot.pipeline.summaries import document_sums
from ingot.stages import base

HOME = Path(__file__).parents[2] / "pipeline" / "demo"
RECORD = Path(__file__).parents[1] / "data" / "gate_pairs.json"
LIMIT = "1%"
RESAMPLINGS, TRIALS, DOCUMENTS = 200, 2_000, 1_600
# Minmax rounding to 4 bits in groups of 256 is what costs this model about 2 % of perplexity.
COARSE = {"bits": 4, "group_size": 256, "scale_search": "minmax"}
Pair = dict[str, list[float]]


def measure(store: Store) -> dict[str, Pair]:
    """Sums by document of each real pair: tokens, reference and value, in nat."""

    def run(name: str, inputs: dict[str, Any], **params: object) -> Any:
        stage = base.get(name)
        with store.outbox() as outbox, tempfile.TemporaryDirectory() as job:
            context = base.Context(
                build(stage.params, params), inputs, outbox, Path(job), 0, 2, lambda *_: None, lambda _: None
            )
            return outbox.publish(stage.output, stage.run(context).facts)

    model = run("load", {}, model=str(HOME / "wikitext-llama-4m"))
    reference = run("validate.reference", {"model": model}, evaluation=str(HOME / "data/evaluation.jsonl"))

    def pair(weights: Any) -> Pair:
        artifact = run("export.onnx", {"model": weights})
        quality = run("validate.quality", {"artifact": artifact, "reference": reference})
        names, sums = document_sums(measurements.read(quality.path).columns)
        wanted = {"tokens": "tokens", "reference": "nll_reference", "value": "nll_value"}
        return {key: sums[:, names.index(column)].tolist() for key, column in wanted.items()}

    eight = run("quantize.rtn", {"model": model}, bits=8)
    first, again = pair(eight), pair(eight)
    return {
        "plain": pair(model),
        "int8": first,
        "itself": {**again, "reference": first["value"]},
        "coarse": pair(run("quantize.rtn", {"model": model}, **COARSE)),
    }


def verdict(pair: Pair, *, limit: str = LIMIT, resamples: int = 10_000, seed: int = 0) -> str:
    """What the gate says of a pair's perplexity."""
    tokens, reference, value = (np.asarray(pair[key]) for key in ("tokens", "reference", "value"))
    count, total = len(tokens), float(tokens.sum())
    sides = (float(np.exp(side.sum() / total)) for side in (reference, value))
    measured = Measured("perplexity", "ppl", "lower", "relative", *sides, count, int(total), count)
    columns = {
        "document": list(range(count)),
        "tokens": tokens.tolist(),
        "nll_reference": reference.tolist(),
        "nll_value": value.tolist(),
    }
    made = Measurements("quality", "causal-lm", {"perplexity": measured}, columns, {}, {}, {}, f"{seed:016x}")
    bound = read_bound(GateRule("perplexity", "max_increase", limit, "bench"))
    return evaluate([bound], made, None, resamples=resamples).status


def resampled(pair: Pair, times: int, **options: Any) -> Counter[str]:
    """The verdicts on so many resamplings of a pair's documents."""
    generator = np.random.default_rng(3)
    count = len(pair["tokens"])
    found: Counter[str] = Counter()
    for seed in range(times):
        chosen = generator.integers(0, count, count)
        drawn = {key: np.asarray(column)[chosen].tolist() for key, column in pair.items()}
        found[verdict(drawn, seed=seed, **options)] += 1
    return found


def simulated(change: float, trials: int, *, documents: int = DOCUMENTS, **options: Any) -> Counter[str]:
    """The verdicts on artifacts whose true perplexity is ``change`` (a share) off the reference's."""
    generator = np.random.default_rng(5)
    found: Counter[str] = Counter()
    for seed in range(trials):
        tokens = np.full(documents, 256.0)
        reference = tokens * generator.normal(3.0, 0.5, documents)
        drift = np.log1p(change) + generator.normal(0, 0.08, documents)
        pair = {"tokens": tokens, "reference": reference, "value": reference + tokens * drift}
        found[verdict({key: side.tolist() for key, side in pair.items()}, seed=seed, **options)] += 1
    return found


def main() -> None:
    """Prints a table of verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the real pairs for the tests")
    parser.add_argument("--trials", type=int, default=TRIALS, help="simulated runs for each true change")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pairs = measure(Store.open(Path(place)))
    if options.record:
        RECORD.write_text(json.dumps(pairs, indent=0) + "\n")
    for name, pair in pairs.items():
        change = np.expm1((sum(pair["value"]) - sum(pair["reference"])) / sum(pair["tokens"]))
        drawn = dict(resampled(pair, RESAMPLINGS))
        print(f"{name:8} {change:+.4%} of {len(pair['tokens'])} documents: {verdict(pair)}; {drawn}")
    for change in (0.0, 0.005, 0.02):
        found = simulated(change, options.trials, resamples=2_000)
        shares = {status: f"{count / options.trials:.2%}" for status, count in found.items()}
        print(f"simulated {change:+.1%} of {DOCUMENTS} documents, {options.trials} trials: {shares}")


if __name__ == "__main__":
    main()
