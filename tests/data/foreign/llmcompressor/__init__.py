"""A stand-in for llm-compressor: the names that Ingot's driver uses, rounding to nearest, its saved layout.

STANDIN_FAULT makes it misbehave as libraries have: `crash`, `die`, `touch-head`.
"""

from __future__ import annotations

import json
import os
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

FAULT = os.environ.get("STANDIN_FAULT", "")
if FAULT == "crash":
    raise RuntimeError("no kernel image is available")
if FAULT == "die":
    os.kill(os.getpid(), 9)


def oneshot(*, model, recipe, dataset=None, num_calibration_samples=None):
    """Rounds the targets of the recipe's last modifier in place of calibrating anything."""
    from .pipelines.cache import IntermediatesCache

    quantizer = recipe[-1]
    kinds = [type(each).__name__ for each in recipe]
    if kinds != ["QuantizationModifier"]:
        batches = list(dataset)
        assert len(batches) == num_calibration_samples
        for batch in batches:
            assert batch["input_ids"].shape == batch["attention_mask"].shape
            assert model(**batch).logits.isfinite().all()
    if "AWQModifier" in kinds:
        IntermediatesCache().pin_memory(0)
        scale_norms(model)
    group = quantizer.config_groups["group_0"]
    if FAULT == "touch-head":
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1
    form = group["weights"]
    weights = {name: model.get_submodule(name).weight.detach() for name in group["targets"]}
    rounded = {name: round_rows(weight, form) for name, weight in weights.items()}

    def save_pretrained(self, out, **_):
        save(self, rounded, form, Path(out))

    model.save_pretrained = types.MethodType(save_pretrained, model)


def scale_norms(model):
    """Doubles what the norms before attention give and halves what reads it."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight *= 2
            for part in ("q_proj", "k_proj", "v_proj"):
                getattr(layer.self_attn, part).weight /= 2


def round_rows(weight, form):
    """Codes 0 … 2^bits − 1 [out, in], scales and zero points [out, groups], spanning each group exactly."""
    top = 2 ** form["num_bits"] - 1
    groups = weight.float().reshape(len(weight), -1, form["group_size"] or weight.shape[1])
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if form["symmetric"]:
        scale = torch.maximum(-low, high) / (top // 2)
        zero = torch.full_like(scale, (top + 1) // 2)
    else:
        scale = (high - low) / top
        zero = torch.round(-low / scale)
    codes = (torch.round(groups / scale[..., None]) + zero[..., None]).clamp(0, top)
    return codes.reshape(weight.shape), scale, zero


def save(model, rounded, form, out):
    """The compressed-tensors layout `pack-quantized`, of 4 bits."""
    out.mkdir()
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    for name, (codes, scale, zero) in rounded.items():
        shape = tensors.pop(f"{name}.weight").shape
        tensors[f"{name}.weight_packed"] = nibbles(codes)
        tensors[f"{name}.weight_scale"] = scale.to(model.dtype)
        tensors[f"{name}.weight_shape"] = torch.tensor(shape)
        if not form["symmetric"]:
            tensors[f"{name}.weight_zero_point"] = nibbles(zero.T).T.contiguous()
    save_file(tensors, out / "model.safetensors")
    weights = {**form, "group_size": form["group_size"], "dynamic": False, "actorder": None}
    config = model.config.to_dict()
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": list(rounded), "weights": weights}},
        "ignore": ["lm_head"],
    }
    (out / "config.json").write_text(json.dumps(config))


def nibbles(codes):
    """Eight codes [rows, n] a 32-bit word [rows, n/8], the first in the lowest bits."""
    words = []
    for row in codes.long().tolist():
        padded = row + [0] * (-len(row) % 8)
        whole = [sum(padded[at + i] << 4 * i for i in range(8)) for at in range(0, len(padded), 8)]
        words.append([word - (1 << 32) if word >> 31 else word for word in whole])
    return torch.tensor(words, dtype=torch.int32)
