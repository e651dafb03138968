"""A stand-in for GPTQModel: the names that Ingot's driver uses, rounding to nearest, the GPTQ layout."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import save_file

assert int(os.environ["GPTQMODEL_CPU_WORKERS"]) >= 2


class QuantizeConfig(SimpleNamespace):
    """Keeps its arguments."""


class GPTQModel:
    """A model that is to be quantized."""

    @classmethod
    def load(cls, path, config, *, dtype, device):
        """Opens a checkpoint."""
        made = cls()
        made.config = config
        made.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
        return made

    def quantize(self, samples, batch_size):
        """Rounds symmetrically every linear map of the layers that `dynamic` does not leave out."""
        assert all(len(each["input_ids"]) == len(each["attention_mask"]) for each in samples)
        left = [pattern.removeprefix("-:") for pattern in self.config.dynamic or {}]
        self.rounded = {}
        for name, module in self.model.named_modules():
            is_linear = isinstance(module, torch.nn.Linear) and name != "lm_head"
            if is_linear and not any(re.match(pattern, name) for pattern in left):
                weight = module.weight.detach().float()
                size = self.config.group_size if self.config.group_size > 0 else weight.shape[1]
                groups = weight.reshape(len(weight), -1, size)
                scale = groups.abs().amax(-1) / 7
                codes = (torch.round(groups / scale[..., None]) + 8).clamp(0, 15)
                self.rounded[name] = codes.reshape(weight.shape), scale

    def save(self, out):
        """Writes qweight [in/8, out], qzeros [groups, out/8] (less one), scales [groups, out] and g_idx."""
        out = Path(out)
        out.mkdir()
        tensors = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        for name, (codes, scale) in self.rounded.items():
            rows, width = tensors.pop(f"{name}.weight").shape
            groups = scale.shape[1]
            zeros = torch.full((rows, groups), 7)
            tensors[f"{name}.qweight"] = nibbles(codes).T.contiguous()
            tensors[f"{name}.qzeros"] = nibbles(zeros.T)
            tensors[f"{name}.scales"] = scale.T.contiguous()
            tensors[f"{name}.g_idx"] = torch.arange(width, dtype=torch.int32) // (width // groups)
        save_file(tensors, out / "model.safetensors")
        config = self.model.config.to_dict()
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": self.config.bits, "group_size": self.config.group_size,
            "sym": True, "desc_act": False, "lm_head": False, "checkpoint_format": "gptq",
        }  # fmt: skip
        (out / "config.json").write_text(json.dumps(config))


def nibbles(codes):
    """Eight codes [rows, n] a 32-bit word [rows, n/8], the first in the lowest bits."""
    words = []
    for row in codes.long().tolist():
        whole = [sum(row[at + i] << 4 * i for i in range(8)) for at in range(0, len(row), 8)]
        words.append([word - (1 << 32) if word >> 31 else word for word in whole])
    return torch.tensor(words, dtype=torch.int32)
