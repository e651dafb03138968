"""What the built-in stages take before any run has shown it: one function a stage, measured once.

The figures were measured on one core of a server processor, with models of 4 and 61 million parameters and a
text of 8,000 tokens. They give the shape, how cost grows with parameters and tokens; past runs of a stage
correct the level (`pipeline/predict.py`). No stage imports this module, so no key depends on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .base import BUILTIN, Estimate, Stage, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MB = 1_000_000
FLOAT32 = 4
# A Python process with numpy, with onnx and its runtime, and with torch and transformers.
PROCESS_BYTES, RUNTIME_BYTES, TORCH_BYTES = 45 * MB, 85 * MB, 430 * MB
PROCESS_SECONDS, RUNTIME_SECONDS, TORCH_SECONDS = 0.25, 0.35, 4.5
# Bytes of a quantized weight as codes with their scales, and what configs and tokenizers add.
CODES = 1.2
SIDECARS = MB // 2
# Log-probabilities of the 50 likeliest tokens with their ids, and the rest of what is kept of a prediction.
LOGITS_BYTES = 50 * 8 + 16


def load(_params: Any, work: Work) -> Estimate:
    """Copied and checked as the bytes pass."""
    copied = work.weight_bytes
    return Estimate(
        PROCESS_SECONDS + 1.5e-9 * copied, PROCESS_BYTES, copied + SIDECARS, mapped_bytes=min(copied, 64 * MB)
    )


def load_quantized(_params: Any, work: Work) -> Estimate:
    """Unpacked weight by weight to a byte a code."""
    return Estimate(
        PROCESS_SECONDS + 1e-8 * work.parameters,
        PROCESS_BYTES + work.weight_bytes // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.weight_bytes // 2,
    )


def dequantize(_params: Any, work: Work) -> Estimate:
    """Four bytes a weight, weight by weight."""
    output = FLOAT32 * work.parameters
    return Estimate(
        PROCESS_SECONDS + 6e-9 * work.parameters,
        PROCESS_BYTES + output // 4,
        output + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )


def rounding(params: Any, work: Work) -> Estimate:
    """`quantize.rtn` and `quantize.dynamic`: tensor by tensor; a search of scales tries many of them."""
    searches = getattr(params, "scale_search", "minmax") == "mse"
    return Estimate(
        PROCESS_SECONDS + (5.1e-8 if searches else 9e-9) * work.parameters,
        PROCESS_BYTES + work.input_bytes // 2,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )


def calibrated(params: Any, work: Work) -> Estimate:
    """`quantize.gptq` and `quantize.awq`: the text through the network once, with XᵀX of every input.

    Of a usual block these products take two thirds of what the maps do; correcting for earlier errors takes a
    second network. What is chosen for each weight does not depend on the text.
    """
    tokens = params.samples * params.window
    passes = 2 if getattr(params, "corrects", getattr(params, "error_correction", False)) else 1
    seconds = 7.5e-11 * passes * work.parameters * tokens + 1.2e-6 * work.parameters
    # Of the blocks' width little is known; a model of P parameters is about √(P / 100) wide.
    activations = int(4 * FLOAT32 * passes * tokens * (work.parameters / 100) ** 0.5)
    return Estimate(
        TORCH_SECONDS + seconds,
        TORCH_BYTES + min(activations, params.activation_budget_mb * MB) + FLOAT32 * work.parameters // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
        parallel=work.cores,
    )


def magnitude(_params: Any, work: Work) -> Estimate:
    """`prune.magnitude` and `share.layers`: one pass over the weights, each sorted, counted or added."""
    return Estimate(
        TORCH_SECONDS + 3e-8 * work.parameters,
        TORCH_BYTES + FLOAT32 * work.parameters // 4,
        work.input_bytes,
        mapped_bytes=work.input_bytes // 2,
    )


def pruned(params: Any, work: Work) -> Estimate:
    """`prune.wanda` and `prune.sparsegpt`: what calibrating takes, and a checkpoint as large as before."""
    return replace(calibrated(params, work), output_bytes=work.input_bytes)


def factor(params: Any, work: Work) -> Estimate:
    """`factor.svd`: singular values of every weight, once more where they decide on ranks."""
    passes = 1 if params.energy is None and params.budget is None else 2
    return Estimate(
        TORCH_SECONDS + passes * _singular_seconds(work),
        TORCH_BYTES + 4 * FLOAT32 * work.parameters // 4,
        work.input_bytes,
        mapped_bytes=work.input_bytes // 2,
    )


def factor_aware(params: Any, work: Work) -> Estimate:
    """`factor.svd_llm`: what calibrating takes, once more for a budget, and singular values."""
    walked = calibrated(params, work)
    passes = 1 if params.budget is None else 2
    seconds = passes * (walked.cpu_seconds + _singular_seconds(work))
    return replace(walked, cpu_seconds=seconds, output_bytes=work.input_bytes)


def _singular_seconds(work: Work) -> float:
    """Of all weights: they grow as a weight's parameters times its width, which is about √(P / 100)."""
    width: float = (work.parameters / 100) ** 0.5
    return 6e-10 * work.parameters * width


def structured(params: Any, work: Work) -> Estimate:
    """`prune.structured`: the text through the network as often as it is looked at, and what is left."""
    # Fitting takes two networks along and products of inputs, and scores channels on the way.
    scored = {"activation": not params.refit, "taylor": 6}.get(params.scoring, 0)
    looks = 0 if params.calibration is None else scored + (params.layers is not None) + 3 * params.refit
    seconds = 5e-11 * looks * work.parameters * params.samples * params.window
    once = pruned(params, work)
    return replace(once, cpu_seconds=TORCH_SECONDS + seconds + 5e-9 * work.parameters)


def dropped(params: Any, work: Work) -> Estimate:
    """`prune.layers`: the text through the network once, where influence is measured."""
    tokens = 0 if params.calibration is None else params.samples * params.window
    once = pruned(params, work)
    return replace(once, cpu_seconds=TORCH_SECONDS + 5e-11 * work.parameters * tokens)


def grids(params: Any, work: Work) -> Estimate:
    """`quantize.static`: the text through the network once, with histograms of every input and products of a
    sample; `quantize.smoothquant` takes a plain pass before, or alone.
    """
    tokens = params.samples * params.window
    plain, observed = 5e-11, 1.4e-10
    smooth = {"dynamic": plain, "static": plain + observed}.get(getattr(params, "activation", ""), observed)
    activations = int(4 * FLOAT32 * tokens * (work.parameters / 100) ** 0.5)
    return Estimate(
        TORCH_SECONDS + smooth * work.parameters * tokens,
        TORCH_BYTES + min(activations, params.activation_budget_mb * MB) + FLOAT32 * work.parameters // 4,
        int(CODES * work.parameters) + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
        parallel=work.cores,
    )


def mixed(params: Any, work: Work) -> Estimate:
    """`quantize.mixed`: `quantize.gptq`, after some of the text went forward twice and back once more."""
    rounded = calibrated(params, work)
    tokens = params.sensitivity_samples * params.window
    seconds = 5e-10 * work.parameters * tokens + 2e-6 * work.parameters
    return replace(rounded, cpu_seconds=rounded.cpu_seconds + seconds)


def rotate(params: Any, work: Work) -> Estimate:
    """`fuse.rotate`: a handful of passes over blocks of every tensor in float64, one tensor in memory."""
    stored = FLOAT32 if params.dtype == "float32" else FLOAT32 // 2
    return Estimate(
        PROCESS_SECONDS + 2.5e-7 * work.parameters,
        PROCESS_BYTES + FLOAT32 * work.parameters // 2,
        stored * work.parameters + SIDECARS,
        parallel=work.cores,
    )


def merge(_params: Any, work: Work) -> Estimate:
    """`merge` and its methods: every input read, one written; trimming takes a few passes more."""
    largest = max((size for _, size in work.inputs.values()), default=work.weight_bytes)
    moved = (work.input_bytes or work.weight_bytes) + largest
    return Estimate(
        TORCH_SECONDS + 2e-9 * moved,
        TORCH_BYTES,
        largest,
        mapped_bytes=min(moved, 256 * MB),
        parallel=work.cores,
    )


def load_adapter(_params: Any, work: Work) -> Estimate:
    """Copied and checked as the bytes pass; an adapter is about a fiftieth of its model."""
    copied = work.weight_bytes // 50
    return Estimate(PROCESS_SECONDS + 1.5e-9 * copied, PROCESS_BYTES, copied + SIDECARS)


def lora(_params: Any, work: Work) -> Estimate:
    """`fuse.lora`: a pass over every tensor that changes in blocks of float64, one tensor in memory."""
    kind, base = work.inputs.get("model", ("", work.weight_bytes))
    return Estimate(
        PROCESS_SECONDS + 1e-8 * work.parameters,
        PROCESS_BYTES + FLOAT32 * work.parameters // 4,
        (FLOAT32 * work.parameters if kind == "quantized-checkpoint" else base) + SIDECARS,
        mapped_bytes=base // 4,
        parallel=work.cores,
    )


def merge_measured(params: Any, work: Work) -> Estimate:
    """`merge.fisher` and `merge.regmean`: a text through each model first, there and for some back as well.

    What is found of a model has a number for every weight, or about as many.
    """
    merged = merge(params, work)
    tokens = params.samples * params.window
    models = max(2, len(work.inputs))
    seconds = models * (3e-10 * tokens + 2e-9) * work.parameters
    return replace(
        merged,
        cpu_seconds=merged.cpu_seconds + seconds,
        memory_bytes=TORCH_BYTES + params.activation_budget_mb * MB + FLOAT32 * work.parameters // 2,
    )


def merge_search(params: Any, work: Work) -> Estimate:
    """`merge.search`: every trial makes the whole merge and takes its texts through it."""
    merged = merge(params, work)
    windows = params.trials * params.samples + (params.finalists + 4) * params.final_samples
    tokens = windows * params.window * len(params.selection)
    trials = params.trials + params.finalists + 4
    seconds = trials * (5e-9 * work.parameters + 0.1) + 1.2e-10 * work.parameters * tokens
    memory_bytes = TORCH_BYTES + FLOAT32 * work.parameters // 4
    return replace(merged, cpu_seconds=merged.cpu_seconds + seconds, memory_bytes=memory_bytes)


def extract_lora(params: Any, work: Work) -> Estimate:
    """`fuse.extract_lora`: eleven products with a few columns more than the rank; one tensor in memory."""
    return Estimate(
        PROCESS_SECONDS + (2e-8 + 1e-9 * params.rank) * work.parameters,
        PROCESS_BYTES + 3 * FLOAT32 * work.parameters // 4,
        2 * FLOAT32 * params.rank * int(7 * (work.parameters / 12) ** 0.5) + SIDECARS,
        mapped_bytes=work.input_bytes // 4,
        parallel=work.cores,
    )


def norms(_params: Any, work: Work) -> Estimate:
    """`fuse.norms` and `fuse.qkv`: one tensor in memory; then both networks on some tokens, by block."""
    output = FLOAT32 * work.parameters
    return Estimate(
        TORCH_SECONDS + 2e-8 * work.parameters, TORCH_BYTES + 3 * output // 4, output + SIDECARS,
        mapped_bytes=work.input_bytes // 4,
    )  # fmt: skip


def trained(params: Any, work: Work) -> Estimate:
    """Stages that train: forward and back for every token, forward for those that choose.

    Weights, gradients, two means of the optimizer, and the weights as they would be written, in float32.
    """
    every = params.tokens or int((params.epochs or 1.0) * work.tokens)
    tokens = params.steps * params.batch_size * params.window if params.steps else every
    steps = tokens / (params.batch_size * params.window)
    measured = 1 + (steps / params.evaluate_every if params.evaluate_every else 10)
    chosen = measured * params.selection_windows * params.window
    # Of the blocks and of some distributions over the vocabulary, measured at a thousand tokens.
    part = params.batch_size // params.accumulation * params.window
    activations = int(350_000 * part * (work.parameters / 8e6) ** 0.5)
    return Estimate(
        TORCH_SECONDS + 1.1e-10 * work.parameters * (tokens + chosen / 3),
        TORCH_BYTES + 5 * FLOAT32 * work.parameters + activations,
        work.weight_bytes + SIDECARS,
        parallel=work.cores,
    )


def distilled(params: Any, work: Work) -> Estimate:
    """The same beside a teacher, which runs forward on every token, once where its predictions are kept."""
    found = trained(params, work)
    taught = work.inputs.get("teacher", ("", FLOAT32 * work.parameters))[1]
    return replace(
        found,
        cpu_seconds=found.cpu_seconds * (1.1 if params.top_k else 4 / 3),
        memory_bytes=found.memory_bytes + 2 * taught,
    )


def gradually(params: Any, work: Work) -> Estimate:
    """`prune.gradual`: a training, with a teacher or without, and the weights as they were beside it."""
    found = distilled(params, work) if "teacher1" in work.inputs else trained(params, work)
    return replace(found, memory_bytes=found.memory_bytes + FLOAT32 * work.parameters)


def rounded_training(params: Any, work: Work) -> Estimate:
    """`quantize.qat`: the same with every weight rounded at every step, and codes in the end."""
    found = distilled(params, work) if "teacher1" in work.inputs else trained(params, work)
    return replace(
        found,
        cpu_seconds=1.15 * found.cpu_seconds,
        memory_bytes=found.memory_bytes + 2 * FLOAT32 * work.parameters,
        output_bytes=int(CODES * work.parameters) + SIDECARS,
    )


def foreign(params: Any, work: Work) -> Estimate:
    """Another library's quantizer: the whole model in torch; AWQ runs each block for every scale it tries."""
    seconds = {"gptq": 8e-11, "awq": 6.2e-10, "rtn": 0.0}[params.algorithm]
    return Estimate(
        2 * TORCH_SECONDS + (seconds * params.samples * params.window + 1e-7) * work.parameters,
        2 * TORCH_BYTES + 2 * FLOAT32 * work.parameters,
        int(CODES * work.parameters) + SIDECARS,
        parallel=work.cores,
    )


def export_onnx(_params: Any, work: Work) -> Estimate:
    """A float32 graph of a checkpoint; a graph of about the codes' size of a quantized one."""
    quantized = any(kind == "quantized-checkpoint" for kind, _ in work.inputs.values())
    output = (work.input_bytes if quantized else FLOAT32 * work.parameters) + SIDECARS
    return Estimate(
        RUNTIME_SECONDS + 4e-9 * output, RUNTIME_BYTES + output, output, mapped_bytes=work.input_bytes // 2
    )


def export_onnx_mobile(params: Any, work: Work) -> Estimate:
    """`export.onnx` and the graph once more in onnxruntime's format, optimized and held whole."""
    once = export_onnx(params, work)
    return replace(
        once,
        cpu_seconds=once.cpu_seconds + 1 + 8e-9 * once.output_bytes,
        memory_bytes=once.memory_bytes + 2 * once.output_bytes,
        output_bytes=2 * once.output_bytes,
    )


def export_executorch(_params: Any, work: Work) -> Estimate:
    """Lowering takes its time by operators, not by weights: of a small network about a minute."""
    quantized = any(kind == "quantized-checkpoint" for kind, _ in work.inputs.values())
    output = (work.input_bytes if quantized else FLOAT32 * work.parameters) + SIDECARS
    return Estimate(
        (90 if quantized else 45) + 2e-8 * work.parameters,
        TORCH_BYTES + 3 * FLOAT32 * work.parameters,
        output,
        mapped_bytes=work.input_bytes // 2,
    )


def export_transformers(_params: Any, work: Work) -> Estimate:
    """Loaded and run in torch, written, and run in onnxruntime: the weights twice at once."""
    output = FLOAT32 * work.parameters
    return Estimate(
        TORCH_SECONDS + 4 + 8e-9 * output,
        TORCH_BYTES + RUNTIME_BYTES + 2 * output,
        output + SIDECARS,
        mapped_bytes=work.weight_bytes,
    )


def export_checkpoint(_params: Any, work: Work) -> Estimate:
    """Packed weight by weight: a weight's codes and what they become, beside pages of the file."""
    return Estimate(
        PROCESS_SECONDS + 1.2e-8 * work.parameters,
        PROCESS_BYTES + work.input_bytes // 4,
        work.input_bytes + SIDECARS,
        mapped_bytes=work.input_bytes // 2,
    )


def export_aoti(_params: Any, work: Work) -> Estimate:
    """Programs traced operator by operator, which takes seconds whatever the weights, in torch's process."""
    output = 2 * work.parameters + 3 * SIDECARS
    return Estimate(
        TORCH_SECONDS + 10.5 + 6e-9 * work.parameters,
        TORCH_BYTES + output,
        output,
        mapped_bytes=work.input_bytes // 2,
    )


def reference(_params: Any, work: Work) -> Estimate:
    """Two floating-point operations a parameter and token, in torch float32."""
    return Estimate(
        TORCH_SECONDS + 4.5e-11 * work.parameters * work.tokens,
        TORCH_BYTES + FLOAT32 * work.parameters,
        LOGITS_BYTES * work.tokens + SIDECARS,
        parallel=work.cores,
    )


def quality(_params: Any, work: Work) -> Estimate:
    """The same operations through the runtime, whose kernels are faster."""
    _, artifact = work.inputs.get("artifact", ("", 0))
    return Estimate(
        RUNTIME_SECONDS + 1.2e-11 * work.parameters * work.tokens,
        RUNTIME_BYTES + 3 * artifact,
        100 * (work.tokens // 200) + 2000,
        parallel=work.cores,
    )


def cost(params: Any, work: Work) -> Estimate:
    """Fresh processes on both sides in turns, each loading its model and running its passes."""
    tokens = params.passes * (params.prefill_tokens + params.decode_tokens)
    largest = max((size for kind, size in work.inputs.values() if kind != "checkpoint"), default=0)
    repeat = 1.0 + 1.6e-10 * work.parameters * tokens
    return Estimate(0.5 + params.repeats * repeat, RUNTIME_BYTES + 4 * largest // 3, 20_000)


def emulated(params: Any, work: Work) -> Estimate:
    """The artifact on this host, then on each processor some hundreds of times as slow, one after another."""
    _, artifact = work.inputs.get("artifact", ("", 0))
    each = 20 + 4e-9 * work.parameters * 2 * params.tokens
    return Estimate(RUNTIME_SECONDS + len(params.processors) * each, RUNTIME_BYTES + 3 * artifact, 5000)


def typical(_params: Any, work: Work) -> Estimate:
    """A stage that says nothing of itself: a process that holds three times what it takes."""
    output = max((size for _, size in work.inputs.values()), default=work.weight_bytes)
    return Estimate(1.0 + 1e-7 * work.parameters, 10 * PROCESS_BYTES + 3 * work.input_bytes, output)


TABLE: Mapping[str, Callable[[Any, Work], Estimate]] = {
    "load": load,
    "load.adapter": load_adapter,
    "fuse.lora": lora,
    "fuse.extract_lora": extract_lora,
    "fuse.qkv": norms,
    "fuse.norms": norms,
    "fuse.rotate": rotate,
    **{name: merge for name in BUILTIN if name.partition(".")[0] == "merge"},
    "merge.fisher": merge_measured,
    "merge.regmean": merge_measured,
    "merge.search": merge_search,
    "load.quantized": load_quantized,
    "dequantize": dequantize,
    "distill": distilled,
    "finetune.full": trained,
    "finetune.lora": trained,
    "prune.magnitude": magnitude,
    "prune.gradual": gradually,
    "prune.wanda": pruned,
    "prune.sparsegpt": pruned,
    "factor.svd": factor,
    "share.layers": magnitude,
    "expand": dequantize,
    "factor.svd_llm": factor_aware,
    "prune.structured": structured,
    "prune.layers": dropped,
    "quantize.rtn": rounding,
    "quantize.dynamic": rounding,
    "quantize.gptq": calibrated,
    "quantize.awq": calibrated,
    "quantize.mixed": mixed,
    "quantize.qat": rounded_training,
    "quantize.static": grids,
    "quantize.smoothquant": grids,
    "quantize.nf4": rounding,
    "quantize.fp8": rounding,
    "quantize.llmcompressor": foreign,
    "quantize.gptqmodel": foreign,
    "export.onnx": export_onnx,
    "export.executorch": export_executorch,
    "export.onnx_mobile": export_onnx_mobile,
    "export.torchscript_mobile": export_transformers,
    "export.onnx_nvidia": export_onnx,
    "export.transformers": export_transformers,
    "export.aoti_cuda": export_aoti,
    "export.checkpoint": export_checkpoint,
    "validate.reference": reference,
    "validate.quality": quality,
    "validate.cost": cost,
    "validate.emulated_arm": emulated,
}


def estimate(stage: Stage[Any], params: object, work: Work) -> Estimate:
    """What a stage states of itself, else what stands here, else what is typical."""
    return (stage.estimate or TABLE.get(stage.name, typical))(params, work)
