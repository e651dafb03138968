"""Which estimate is a stage's: the function that says what it takes before any run has shown it.

The figures were measured on one core of a server processor, with models of 4 and 61 million parameters and a
text of 8,000 tokens. They give the shape, how cost grows with parameters and tokens; past runs of a stage
correct the level (`pipeline/predict.py`). No stage imports this module, so no key depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import BUILTIN, Estimate, Stage, Work
from . import exporting, measuring, merging, rounding, shrinking, sources, training
from .figures import PROCESS_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def typical(_params: Any, work: Work) -> Estimate:
    """A stage that says nothing of itself: a process that holds three times what it takes."""
    output = max((size for _, size in work.inputs.values()), default=work.weight_bytes)
    return Estimate(1.0 + 1e-7 * work.parameters, 10 * PROCESS_BYTES + 3 * work.input_bytes, output)


TABLE: Mapping[str, Callable[[Any, Work], Estimate]] = {
    "load": sources.load,
    "load.adapter": sources.load_adapter,
    "fuse.lora": merging.lora,
    "fuse.extract_lora": merging.extract_lora,
    "fuse.qkv": merging.norms,
    "fuse.norms": merging.norms,
    "fuse.rotate": rounding.rotate,
    **{name: merging.merge for name in BUILTIN if name.partition(".")[0] == "merge"},
    "merge.fisher": merging.merge_measured,
    "merge.regmean": merging.merge_measured,
    "merge.search": merging.merge_search,
    "load.quantized": sources.load_quantized,
    "dequantize": sources.dequantize,
    "distill": training.distilled,
    "finetune.full": training.trained,
    "finetune.lora": training.trained,
    "prune.magnitude": shrinking.magnitude,
    "prune.gradual": training.gradually,
    "prune.wanda": shrinking.pruned,
    "prune.sparsegpt": shrinking.pruned,
    "factor.svd": shrinking.factor,
    "share.layers": shrinking.magnitude,
    "expand": sources.dequantize,
    "factor.svd_llm": shrinking.factor_aware,
    "prune.structured": shrinking.structured,
    "prune.layers": shrinking.dropped,
    "quantize.rtn": rounding.rounding,
    "quantize.dynamic": rounding.rounding,
    "quantize.gptq": rounding.calibrated,
    "quantize.awq": rounding.calibrated,
    "quantize.mixed": rounding.mixed,
    "quantize.qat": training.rounded_training,
    "quantize.static": rounding.grids,
    "quantize.smoothquant": rounding.grids,
    "quantize.nf4": rounding.rounding,
    "quantize.fp8": rounding.rounding,
    "quantize.llmcompressor": rounding.foreign,
    "quantize.gptqmodel": rounding.foreign,
    "export.onnx": exporting.export_onnx,
    "export.executorch": exporting.export_executorch,
    "export.onnx_mobile": exporting.export_onnx_mobile,
    "export.torchscript_mobile": exporting.export_transformers,
    "export.onnx_nvidia": exporting.export_onnx,
    "export.transformers": exporting.export_transformers,
    "export.aoti_cuda": exporting.export_aoti,
    "export.checkpoint": exporting.export_checkpoint,
    "validate.reference": measuring.reference,
    "validate.quality": measuring.quality,
    "validate.cost": measuring.cost,
    "validate.emulated_arm": measuring.emulated,
}


def estimate(stage: Stage[Any], params: object, work: Work) -> Estimate:
    """What a stage states of itself, else what stands here, else what is typical."""
    return (stage.estimate or TABLE.get(stage.name, typical))(params, work)
