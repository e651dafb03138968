"""Hand-made measurements and reports with known contents, for the tests of gate, delivery and reports."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import numpy as np
from ingot.pipeline import measurements
from ingot.pipeline.gate import evaluate
from ingot.pipeline.graph import GateRule
from ingot.pipeline.report import model, parts
from ingot.pipeline.report.documents import document_deltas, spreads, timings
from ingot.pipeline.rules import Bound, read_bound

if TYPE_CHECKING:
    from ingot.pipeline.measurements import Measurements

Columns = dict[str, list[float]]


def bounds(**rules: dict[str, float | str]) -> list[Bound]:
    """``bounds(perplexity={"max_increase": "2%"})``."""
    return [
        read_bound(GateRule(metric, rule, limit, "ingot.yaml:9"))
        for metric, limits in rules.items()
        for rule, limit in limits.items()
    ]


def quality_of(columns: Columns, task: str = "causal-lm", **changes: dict[str, object]) -> Measurements:
    """Quality measurements whose stated values are those of ``columns``; changes: metric → other fields."""
    tokens = sum(columns["tokens"])
    counts = {"n": len(columns["tokens"]), "tokens": int(tokens), "documents": len(set(columns["document"]))}
    metrics: dict[str, dict[str, object]] = {}
    if "nll_value" in columns:
        metrics["perplexity"] = {
            "unit": "ppl", "better": "lower", "comparison": "relative",
            "reference": math.exp(sum(columns["nll_reference"]) / tokens),
            "value": math.exp(sum(columns["nll_value"]) / tokens),
        }  # fmt: skip
    if "kl" in columns:
        metrics["kl_divergence"] = {
            "unit": "nat", "better": "lower", "comparison": "absolute",
            "reference": 0.0, "value": sum(columns["kl"]) / tokens,
        }  # fmt: skip
    if "top1" in columns:
        metrics["top1_agreement"] = {
            "unit": "fraction", "better": "higher", "comparison": "absolute",
            "reference": 1.0, "value": sum(columns["top1"]) / tokens,
        }  # fmt: skip
    if "cosine" in columns:
        weighted = sum(c * t for c, t in zip(columns["cosine"], columns["tokens"], strict=True))
        metrics["cosine"] = {
            "unit": "fraction", "better": "higher", "comparison": "absolute",
            "reference": 1.0, "value": weighted / tokens,
        }  # fmt: skip
    stated = {name: {**counts, **metric, **changes.get(name, {})} for name, metric in metrics.items()}
    data = {"evaluation": "ab" * 32, "window": 256}
    return parsed("quality", task, stated, columns, data=data)


def parsed(kind: str, task: str, metrics: object, samples: object, **more: object) -> Measurements:
    """Measurements through their files' bytes, as a stage would have written them."""
    document = {"schema": measurements.SCHEMA, "kind": kind, "task": task, "metrics": metrics, **more}
    return measurements.parse(json.dumps(document).encode(), json.dumps(samples).encode())


def windows(
    documents: int = 40, change: float = 0.005, spread: float = 0.01, seed: int = 0, per_document: int = 6
) -> Columns:
    """Samples of a causal LM whose documents change by ``change`` on average, give or take ``spread``."""
    generator = np.random.default_rng(seed)
    count = documents * per_document
    document = np.repeat(np.arange(documents), per_document)
    tokens = generator.integers(40, 255, count)
    reference = tokens * generator.normal(3.0, 0.25, count)
    drift = math.log1p(change) + np.repeat(generator.normal(0, spread, documents), per_document)
    value = reference + tokens * (drift + generator.normal(0, spread, count))
    return {
        "document": document.tolist(),
        "tokens": tokens.tolist(),
        "nll_reference": reference.tolist(),
        "nll_value": value.tolist(),
        "kl": (tokens * generator.gamma(2, abs(change) + 0.002, count)).tolist(),
        "top1": generator.binomial(tokens, 0.97).tolist(),
    }


COST_UNITS = {"load_ms": "ms", "prefill_ms": "ms", "decode_ms": "ms", "tokens_per_second": "tokens/s"}


def cost_of(repeats: dict[str, tuple[list[float], list[float]]], size: tuple[int, int]) -> Measurements:
    """Cost measurements; repeats: metric → those of the reference, of the artifact.  size: bytes of both."""
    metrics: dict[str, object] = {
        "size_bytes": {
            "unit": "bytes",
            "better": "lower",
            "comparison": "relative",
            "reference": size[0],
            "value": size[1],
            "n": 1,
        }
    }
    for name, sides in repeats.items():
        medians = [float(np.median(side)) if side else math.nan for side in sides]
        metrics[name] = {
            "unit": COST_UNITS.get(name, "bytes"),
            "better": "higher" if name == "tokens_per_second" else "lower",
            "comparison": "relative", "reference": medians[0], "value": medians[1], "n": len(sides[1]),
            "distribution": {
                side: {**{f"p{p}": float(np.percentile(numbers, p)) for p in (50, 95, 99)}, "n": len(numbers)}
                for side, numbers in zip(("reference", "value"), sides, strict=True)
                if numbers
            },
        }  # fmt: skip
    samples = {name: {"reference": sides[0], "value": sides[1]} for name, sides in repeats.items()}
    return parsed("cost", "causal-lm", metrics, samples)


def cost(speedup: float = 2.0, size: tuple[int, int] = (8_270_000, 1_420_000), seed: int = 1) -> Measurements:
    """Cost measurements of an artifact that is ``speedup`` times as fast, with noise of a busy machine."""
    generator = np.random.default_rng(seed)

    def pair(milliseconds: float, factor: float, count: int = 15) -> tuple[list[float], list[float]]:
        load = generator.gamma(3, 0.03, count)
        both = [milliseconds * (1 + load + generator.gamma(2, 0.015, count)) for _ in range(2)]
        return both[0].tolist(), (both[1] / factor).tolist()

    decode = pair(4.1, speedup * 0.8)
    return cost_of(
        {
            "load_ms": pair(61.0, 1.6, 5),
            "prefill_ms": pair(38.0, speedup),
            "decode_ms": decode,
            "tokens_per_second": ([1e3 / ms for ms in decode[0]], [1e3 / ms for ms in decode[1]]),
            "peak_memory_bytes": (
                [92e6, 92.4e6, 91.8e6, 92.1e6, 92.2e6],
                [71e6, 70.6e6, 70.9e6, 71.2e6, 71.1e6],
            ),
        },
        size,
    )


ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def weights(layers: int = 4) -> tuple[parts.WeightGroup, ...]:
    """Layers of 4 bits, the last one rounded worst, and an embedding of 8."""
    inner = tuple(
        parts.WeightGroup(role, layer, "int4", 1, 262_144, 163_840, 0.08 + 0.04 * (layer == layers - 1))
        for role in ROLES
        for layer in range(layers)
    )
    embedding = parts.WeightGroup("embedding", None, "int8", 1, 1_048_576, 1_179_648, 0.005)
    return (*inner, embedding, parts.WeightGroup("norms, biases", None, "float32", 9, 2_304, 9_216))


def sweep(
    batches: tuple[int, ...] = (1, 2, 4), sequences: tuple[int, ...] = (32, 128)
) -> tuple[measurements.SweepCell, ...]:
    """Cells whose artifact prefills a token in 0.1 ms and takes steps of 1 ms; the reference takes twice."""

    def side(batch: int, sequence: int, slower: float) -> dict[str, measurements.Quantiles]:
        prefill, step = 0.1 * batch * sequence * slower, batch * slower
        return {
            "prefill_ms": measurements.Quantiles(prefill, prefill * 1.2, prefill * 1.3, 4),
            "decode_ms": measurements.Quantiles(step, step * 1.5, step * 1.6, 32),
        }

    return tuple(
        measurements.SweepCell(
            batch, sequence,
            {"reference": side(batch, sequence, 2.0), "value": side(batch, sequence, 1.0)},
        )
        for batch in batches
        for sequence in sequences
    )  # fmt: skip


def golden() -> tuple[measurements.Golden, ...]:
    """A text that is the same, one that parts, and one that could not be continued."""
    return (
        measurements.Golden("The capital of France is", 24, 24, " Paris, where the river"),
        measurements.Golden(
            "Once upon a time", 24, 3, " there was a",
            measurements.Parting(" mill", " by the river", 0.31), measurements.Parting(" town", " on it"),
        ),
        measurements.Golden("In 1969", 24, error="the model gave logits that are not numbers"),
    )  # fmt: skip


def steps(target: str, change: float) -> tuple[parts.Step, ...]:
    """From 6.3 MB to 1.3 by way of a quantizer that was not measured apart."""
    return (
        parts.Step("load", "load", 6_296_064, 0.0),
        parts.Step(f"quantize@{target}", "quantize.rtn", 1_290_000),
        parts.Step(f"export@{target}", "export.onnx", 1_310_000, change, target),
    )


def target(name: str, status: model.Status | None = None, **changes: object) -> model.TargetReport:
    """A target that was built and measured; status: that of its gate unless given."""
    change = float(changes.pop("change", 0.005))  # type: ignore[arg-type]
    quality, costs = quality_of(windows(change=change)), cost()
    verdict = evaluate(
        bounds(perplexity={"max_increase": "2%"}, top1={"min": "90%"}, size={"max": "60MB"}), quality, costs
    )
    report = model.TargetReport(
        name=name,
        status=status or verdict.status,
        profile="cpu",
        metrics=verdict.metrics,
        checks=verdict.checks,
        delivery=f"ingot-out/{name}",
        artifact="3f" * 32,
        files=(
            model.FileReport("model.onnx", 1_310_000, "a1" * 32),
            model.FileReport("tokenizer.json", 109_000, "b2" * 32),
            model.FileReport("ingot.json", 1_000, "c3" * 32),
        ),
        format="onnx",
        requires={"onnxruntime": ">=1.26", "opset": "21"},
        recipe={"quantize.rtn": "bits 4, group_size 32", "export.onnx": ""},
        widths=(
            model.Width("int4", 28, 2_621_440),
            model.Width("int8", 1, 524_288),
            model.Width("fp32", 9, 2_304),
        ),
        bits_per_weight=5.17,
        timings=timings(costs),
        documents=document_deltas(quality),
        lineage=("d4" * 32, "e5" * 32, "f6" * 32),
        sources=(model.SourceReport("load", "ingot-tiny", license="apache-2.0", digest="9a" * 32),),
        weights=weights(),
        layer_errors=tuple(parts.LayerError(str(n), 0.04 + n / 100, 0.07 + n / 80) for n in range(6)),
        worst_tensors=tuple(
            parts.TensorError(f"model.layers.{n}.mlp.down_proj.weight", "int4", 262_144, 0.12 - n / 100)
            for n in range(10)
        ),
        spreads=spreads(costs),
        sweep=sweep(),
        golden=golden(),
        steps=steps(name, change),
    )  # fmt: skip
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


def nodes(*targets: str) -> tuple[model.NodeReport, ...]:
    """The graph of a run for those targets, as the built-in stages make it."""
    shared = [
        ("load", "load", {}, "hit", 0.21, 61e6),
        ("export@reference", "export.onnx", {"model": "load"}, "built", 6.4, 812e6),
        ("reference", "validate.reference", {"model": "load"}, "built", 9.8, 654e6),
    ]
    own = [
        part
        for name in targets
        for part in (
            (f"quantize@{name}", "quantize.rtn", {"model": "load"}, "built", 0.8, 88e6),
            (f"export@{name}", "export.onnx", {"model": f"quantize@{name}"}, "built", 3.1, 240e6),
            (f"quality@{name}", "validate.quality", {"artifact": f"export@{name}", "reference": "reference"},
             "built", 5.2, 310e6),
            (f"cost@{name}", "validate.cost", {"artifact": f"export@{name}", "reference": "export@reference"},
             "built", 7.7, 150e6),
        )
    ]  # fmt: skip
    return tuple(
        model.NodeReport(
            name, stage, inputs, state, reason="its key is new", seconds=seconds, cpu_seconds=seconds * 1.4,
            max_rss_bytes=int(rss), output_bytes=1_400_000, key="ab" * 32, artifact="cd" * 32,
            params={"bits": "4", "group_size": "32"},
        )
        for name, stage, inputs, state, seconds, rss in [*shared, *own]
    )  # fmt: skip


def report(*targets: model.TargetReport, **changes: object) -> model.RunReport:
    """A run of those targets on a small Llama."""
    made = model.RunReport(
        run="20261121T091233123Z-a1b2c3",
        version="0.1.0",
        started="2026-11-21T09:12:33.123Z",
        seconds=34.2,
        command="ingot demo",
        model=model.ModelReport(
            name="ingot-tiny",
            uri="ingot-tiny",
            architecture="LlamaForCausalLM",
            task="causal-lm",
            parameters=3_148_032,
            weight_bytes=6_296_064,
            dtype="BF16",
            layers=4,
            hidden=256,
            vocabulary=4096,
            context=512,
            license="apache-2.0",
            digest="9a" * 32,
        ),
        targets={item.name: item for item in targets},
        nodes=nodes(*(item.name for item in targets)),
        data=(model.DataReport("evaluation", "evaluation.jsonl", "ab" * 32, 40, 36_000, is_bundled=True),),
        environment={
            "system": "linux x86_64", "processor": "AMD EPYC", "cores": "2", "memory": "23.0 GB",
            "onnxruntime": "1.31.1", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.7",
        },
        recipe="model: ingot-tiny\ntargets: [cpu-int4, cpu-int8]\n",
        notes=("the recipe names no evaluation text: the bundled one is used",),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]
