"""Makes the golden files: small weights, packed by the libraries whose layouts they are in.

    python make_golden.py compressed-tensors|gptq|awq|bitsandbytes

Each run needs an environment with that library (gptq and awq: gptqmodel, whose packers are used, and for the
first also how it turns version 2 into version 1), and writes golden/<case>.safetensors: the tensors of the
module M as the library stores them and, under `expected.`, the codes and the weight that they stand for,
computed from the codes here and checked against what the library itself makes of them. golden/<case>.json is
the `quantization_config`. Written with compressed-tensors 0.19.0, gptqmodel 7.6.0, bitsandbytes 0.50.2.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).with_name("golden")
ROWS, COLUMNS, GROUP = 32, 32, 16


def save(case: str, tensors: dict[str, torch.Tensor], config: dict[str, object]) -> None:
    kept = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, GOLDEN / f"{case}.safetensors", {"format": "pt"})
    (GOLDEN / f"{case}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def drawn(bits: int, *, sym: bool, least_zero: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [rows, columns], zero points and float16 scales [rows, groups], drawn at random."""
    torch.manual_seed(bits * 2 + sym)
    groups = COLUMNS // GROUP
    codes = torch.randint(0, 2**bits, (ROWS, COLUMNS))
    zeros = torch.randint(least_zero, 2**bits, (ROWS, groups))
    zeros = torch.full_like(zeros, 2 ** (bits - 1)) if sym else zeros
    scales = (torch.rand(ROWS, groups) + 0.1).half().float()
    return codes, zeros, scales


def weight_of(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    spread = [part.repeat_interleave(codes.shape[1] // part.shape[1], 1) for part in (zeros, scales)]
    return (codes - spread[0]) * spread[1]


def compressed_tensors() -> None:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    def case(
        name: str, form: str, weights: dict[str, object], state: dict[str, torch.Tensor], inputs=None
    ) -> None:
        scheme = QuantizationScheme(
            targets=["Linear"],
            weights=QuantizationArgs(**weights),
            input_activations=QuantizationArgs(**inputs) if inputs else None,
            format=form,
        )
        compressor = BaseCompressor.get_value_from_registry(form)
        packed = compressor.compress(dict(state), scheme)
        expected = compressor.decompress(dict(packed), scheme)["weight"]
        assert torch.equal(expected, state["weight"])
        config = QuantizationConfig(
            config_groups={"group_0": scheme}, format=form, quantization_status="compressed", ignore=[]
        )
        stored = {f"M.{part}": tensor for part, tensor in packed.items()}
        save(name, {**stored, "expected.weight": expected}, config.model_dump(mode="json"))

    for bits, sym in ((4, True), (4, False), (3, False), (2, True), (8, False)):
        codes, zeros, scales = drawn(bits, sym=sym)
        state = {"weight": weight_of(codes, zeros, scales), "weight_scale": scales}
        state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
        weights = {"num_bits": bits, "symmetric": sym, "strategy": "group", "group_size": GROUP}
        case(f"packed-{bits}{'' if sym else '-asymmetric'}", "pack-quantized", weights, state)
    codes, zeros, scales = drawn(8, sym=True)
    whole = {"weight": weight_of(codes, zeros[:, :1], scales[:, :1]), "weight_scale": scales[:, :1]}
    channel = {"num_bits": 8, "strategy": "channel"}
    dynamic = {"num_bits": 8, "strategy": "token", "dynamic": True}
    case("int8-dynamic", "int-quantized", channel, whole, dynamic)
    static = {"num_bits": 8, "strategy": "tensor", "symmetric": False}
    state = {
        **whole,
        "input_scale": torch.tensor([0.0375]),
        "input_zero_point": torch.tensor([-7], dtype=torch.int8),
    }
    case("int8-static", "int-quantized", channel, state, static)
    values = (torch.randn(ROWS, COLUMNS) * 30).to(torch.float8_e4m3fn).float()
    state = {"weight": values * scales[:, :1], "weight_scale": scales[:, :1]}
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    case("fp8-dynamic", "float-quantized", {**channel, "type": "float"}, state, inputs)
    state = {"weight": values * scales[0, 0], "weight_scale": scales[0, :1]}
    case("fp8-tensor", "float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}, state)


def gptq() -> None:
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    for bits, version in ((2, 1), (3, 1), (4, 1), (8, 1), (3, 2), (4, 2)):
        codes, zeros, scales = drawn(bits, sym=False, least_zero=2 - version)
        linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = weight_of(codes, zeros, scales)
        module = TorchLinear(
            bits=bits, group_size=GROUP, sym=False, desc_act=False, in_features=COLUMNS, out_features=ROWS,
            bias=False, pack_dtype=torch.int32,
        )  # fmt: skip
        groups = torch.arange(COLUMNS, dtype=torch.int32) // GROUP
        module.pack_original(linear, scales, zeros, groups)
        module.post_init()
        made = module.dequantize_weight().float().T
        # The library multiplies in float16.
        assert torch.allclose(made, linear.weight.data, rtol=2**-10, atol=0)
        if version == 1:
            convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=GROUP))
        stored = {f"M.{part}": getattr(module, part) for part in ("qweight", "qzeros", "scales", "g_idx")}
        config = {
            "quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": False, "desc_act": False,
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        }  # fmt: skip
        save(f"gptq-v{version}-{bits}", {**stored, "expected.weight": linear.weight.data}, config)


def awq() -> None:
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
    from gptqmodel.nn_modules.qlinear.torch_awq import pack_awq
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    codes, zeros, scales = drawn(4, sym=False)
    qweight, qzeros = pack_awq(codes.T.int().contiguous(), zeros.T.int().contiguous(), 4)
    packed = {"qweight": qweight, "qzeros": qzeros, "scales": scales.T.half()}
    expected = weight_of(codes, zeros, scales)
    made = dequantize_gemm(**packed, bits=4, group_size=GROUP).float().T
    assert torch.allclose(made, expected, rtol=2**-10, atol=0)
    stored = {f"M.{part}": tensor for part, tensor in packed.items()}
    config = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
    save("awq-4", {**stored, "expected.weight": expected}, config)


def bitsandbytes() -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.manual_seed(0)
    weight = torch.randn(8, 128)
    for nested in (False, True):
        codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")
        expected = dequantize_4bit(codes, state)
        parts = {f"M.weight.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
        config = {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
            "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": nested,
            "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
        }  # fmt: skip
        tensors = {"M.weight": codes, **parts, "expected.weight": expected, "expected.original": weight}
        save(f"nf4{'-double' if nested else ''}", tensors, config)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    {"compressed-tensors": compressed_tensors, "gptq": gptq, "awq": awq, "bitsandbytes": bitsandbytes}[
        sys.argv[1]
    ]()
