"""Exported checkpoints in the programs that they are for: the same weights, and where inputs stay, the same
logits to the last bit. Each test runs where the library is installed; `golden/` checks the same without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

# The libraries warn of their own uses of torch; what they compute is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")
IDS = torch.arange(4, 36)[None]


def logits(directory: Path, **options: Any) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", **options
    ).eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits.numpy(), model


def exported(run_stage: Any, source: Any, **params: Any) -> tuple[Path, Path]:
    """The exported directory, and that of the weights that it stands for."""
    written = run_stage("export.checkpoint", {"model": source}, **params)
    loaded = run_stage("load.quantized", {}, model=str(written.path))
    return written.path, run_stage("dequantize", {"model": loaded}).path


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("rtn", {"bits": 4, "group_size": 32}),
        ("rtn", {"bits": 3, "group_size": 32, "lm_head_bits": 8}),
        ("rtn", {"bits": 2, "group_size": 0}),
        ("fp8", {"activation": "none"}),
        ("fp8", {"activation": "none", "scale": "tensor"}),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen3", "opt"])
def test_transformers_loads_compressed_tensors(
    family: str, method: str, params: Any, tiny_checkpoint: Any, run_stage: Any
) -> None:
    pytest.importorskip("compressed_tensors")
    settings = {"lm_head_bits": 16, **params}
    if family != "llama":
        settings["lm_head_bits"] = 16  # it is the embedding
    if method == "rtn":
        settings["embedding_bits"] = 16
    source = run_stage(f"quantize.{method}", {"model": tiny_checkpoint(family)}, **settings)
    packed, plain = exported(run_stage, source)
    assert np.array_equal(logits(packed)[0], logits(plain)[0])


@pytest.mark.parametrize("method", ["dynamic", "fp8"])
def test_transformers_loads_weights_whose_inputs_are_rounded(
    method: str, tiny_checkpoint: Any, run_stage: Any
) -> None:
    pytest.importorskip("compressed_tensors")
    params = {"embedding_bits": 16} if method == "dynamic" else {}
    source = run_stage(f"quantize.{method}", {"model": tiny_checkpoint("llama")}, lm_head_bits=16, **params)
    packed, plain = exported(run_stage, source)
    (found, model), (expected, reference) = logits(packed), logits(plain)
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            weight = reference.get_submodule(name).weight
            stored = module.weight
            if stored.dtype in (torch.int8, torch.float8_e4m3fn):
                stored = stored.float() * module.weight_scale
            assert torch.equal(stored, weight)
    # Of inputs, int8 keeps about 1 % at each product, fp8 with its three bits about 4 %.
    bound = 0.1 if method == "dynamic" else 0.4
    assert 0 < np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)


@pytest.mark.parametrize("double", [True, False])
def test_transformers_loads_bitsandbytes(double: bool, tiny_checkpoint: Any, run_stage: Any) -> None:
    pytest.importorskip("bitsandbytes")
    source = run_stage(
        "quantize.nf4",
        {"model": tiny_checkpoint("llama")},
        double_quant=double,
        ignore=["*.down_proj.weight"],
    )
    packed, plain = exported(run_stage, source, layout="bitsandbytes")
    assert np.array_equal(logits(packed, device_map="cpu")[0], logits(plain)[0])


@pytest.mark.parametrize("double", [True, False])
def test_what_transformers_saves_of_bitsandbytes_is_read(
    double: bool, tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["down_proj", "lm_head"],
    )  # fmt: skip
    expected, model = logits(tiny_checkpoint("llama"), quantization_config=settings, device_map="cpu")
    model.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "saved" / name).write_bytes((tiny_checkpoint("llama") / name).read_bytes())
    loaded = run_stage("load.quantized", {}, model=str(tmp_path / "saved"))
    plain = run_stage("dequantize", {"model": loaded}).path
    assert np.array_equal(logits(plain)[0], expected)


@pytest.mark.parametrize("layout", ["gptq", "awq"])
@pytest.mark.parametrize(("bits", "sym"), [(4, True), (4, False), (3, True), (2, False), (8, True)])
def test_gptqmodel_loads_its_layouts(
    layout: str, bits: int, sym: bool, tiny_checkpoint: Any, run_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its pool of workers wants at least as many as it has devices.
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")
    gptqmodel = pytest.importorskip("gptqmodel")
    if layout == "awq" and bits != 4:
        bits = 4
    params = {"bits": bits, "group_size": 32, "sym": sym, "embedding_bits": 16, "lm_head_bits": 16}
    source = run_stage("quantize.rtn", {"model": tiny_checkpoint("llama")}, **params)
    packed, plain = exported(run_stage, source, layout=layout)
    backend = gptqmodel.BACKEND.GPTQ_TORCH if layout == "gptq" else gptqmodel.BACKEND.AWQ_TORCH
    model = gptqmodel.GPTQModel.load(str(packed), backend=backend, device="cpu", dtype=torch.float16).model
    expected, _ = logits(plain)
    with torch.no_grad():
        found = model(input_ids=IDS).logits.float().numpy()
    # It computes in float16.
    assert np.linalg.norm(found - expected) <= 0.01 * np.linalg.norm(expected)
