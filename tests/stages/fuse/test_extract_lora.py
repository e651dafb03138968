"""`fuse.extract_lora`: folded into the base, what it writes gives the finetuned model, but what it says."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ingot.artifacts.errors import InputError
from ingot.stages.model.adapters import Adapter
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STAGE = "fuse.extract_lora"
RANK = 3
Tensors = dict[str, torch.Tensor]


def is_linear(name: str, value: torch.Tensor) -> bool:
    tables = ("embed", "wte", "wpe", "lm_head", "shared", "relative", "pooler")
    return value.ndim == 2 and not any(part in name for part in tables)


def low_rank(value: torch.Tensor, seed: int, rank: int = RANK) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(size, rank, generator=generator) * 0.2 for size in value.shape)
    return left @ right.T


@pytest.fixture
def finetuned(tiny_checkpoint: Any, tmp_path: Path) -> Any:
    """``(family, change) -> (base directory, finetuned directory)``; change: what becomes of the tensors."""

    def make(family: str, change: Callable[[Tensors], Tensors]) -> tuple[Path, Path]:
        base = tiny_checkpoint(family)
        directory = shutil.copytree(base, tmp_path / f"{family}-tuned")
        tensors = change(load_file(directory / "model.safetensors"))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return base, directory

    return make


def tuned(tensors: Tensors) -> Tensors:
    """A difference of rank 3 in every linear weight of the layers."""
    return {
        name: value + low_rank(value, seed) if is_linear(name, value) else value
        for seed, (name, value) in enumerate(sorted(tensors.items()))
    }


def refolded(run_stage: Any, base: Path, adapter: Any) -> Tensors:
    made = run_stage("fuse.lora", {"model": base, "adapter1": adapter}, adapters=["adapter1"])
    return load_file(made.path / "model.safetensors")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gpt_neox", "t5", "bert"])
def test_a_difference_of_low_rank_comes_back(family: str, finetuned: Any, run_stage: Any) -> None:
    base, model = finetuned(family, tuned)
    notes: list[str] = []
    adapter = run_stage(STAGE, {"model": model, "base": base}, notes=notes, rank=RANK)
    assert adapter.kind == "adapter"
    assert adapter.facts["ranks"] == [RANK]
    assert "the adapter misses 0.0% of the norm of what changed" in notes[0]
    found, expected = refolded(run_stage, base, adapter), load_file(model / "model.safetensors")
    changed = {name for name, value in expected.items() if is_linear(name, value)}
    assert len(Adapter.open(adapter.path).pairs) == len(changed & {f"{m}.weight" for m in stems(expected)})
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=3e-6), name


def stems(tensors: Tensors) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}


def test_what_is_missed_is_measured(finetuned: Any, run_stage: Any) -> None:
    name = "model.layers.0.mlp.up_proj.weight"

    def change(tensors: Tensors) -> Tensors:
        left, _ = torch.linalg.qr(torch.randn(160, 2, generator=torch.Generator().manual_seed(0)))
        right, _ = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(1)))
        # Singular values 4 and 3: rank 1 misses 3 of 5.
        return {**tensors, name: tensors[name] + (left * torch.tensor([4.0, 3.0])) @ right.T}

    base, model = finetuned("llama", change)
    notes: list[str] = []
    adapter = run_stage(STAGE, {"model": model, "base": base}, notes=notes, rank=1)
    assert "misses 60.0% of the norm of what changed; its pairs 60.0% of theirs, most in " + name in notes[0]
    assert adapter.facts["modules"] == 1
    for energy, rank in ((0.6, 1), (0.63, 1), (0.65, 2)):
        made = run_stage(STAGE, {"model": model, "base": base}, energy=energy)
        assert made.facts["ranks"] == [rank]


def test_ranks_by_energy_differ_by_module_and_the_config_says_which(finetuned: Any, run_stage: Any) -> None:
    one, ten = (f"model.layers.{index}.self_attn.q_proj.weight" for index in (0, 1))

    def change(tensors: Tensors) -> Tensors:
        return {
            **tensors,
            one: tensors[one] + low_rank(tensors[one], 0, rank=1),
            ten: tensors[ten] + low_rank(tensors[ten], 1, rank=10),
        }

    base, model = finetuned("llama", change)
    adapter = run_stage(STAGE, {"model": model, "base": base}, energy=0.9999999)
    opened = Adapter.open(adapter.path)
    assert {module: pair.rank for module, pair in opened.pairs.items()} == {
        one.removesuffix(".weight"): 1, ten.removesuffix(".weight"): 10
    }  # fmt: skip
    assert {pair.scale for pair in opened.pairs.values()} == {1.0}
    found, expected = refolded(run_stage, base, adapter), load_file(model / "model.safetensors")
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-3) for name in (one, ten))


def everything(tensors: Tensors) -> Tensors:
    changed = tuned(tensors)
    for seed, (name, value) in enumerate(sorted(tensors.items())):
        if not is_linear(name, value):
            changed[name] = value + 0.1 * torch.randn(
                value.shape, generator=torch.Generator().manual_seed(seed)
            )
    return changed


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "qwen2"])
def test_what_no_pair_holds_is_reported_or_stored_whole(family: str, finetuned: Any, run_stage: Any) -> None:
    base, model = finetuned(family, everything)
    notes: list[str] = []
    adapter = run_stage(STAGE, {"model": model, "base": base}, notes=notes, rank=RANK)
    assert any(note.startswith("changed and not in the adapter: ") and "more" in note for note in notes)
    assert adapter.facts["saved_tensors"] == 0
    whole = run_stage(STAGE, {"model": model, "base": base}, rank=RANK, others="save")
    found, expected = refolded(run_stage, base, whole), load_file(model / "model.safetensors")
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=3e-6), name
    config = json.loads((whole.path / "adapter_config.json").read_text())
    assert config["bias"] == ("none" if family.startswith("llama") else "all")
    if family == "llama-tied":
        assert torch.equal(found["lm_head.weight"], expected["model.embed_tokens.weight"])
        assert {"model.embed_tokens", "lm_head", "model.norm"} <= set(config["modules_to_save"])


def test_half_precision_of_the_adapter_is_measured_too(finetuned: Any, run_stage: Any) -> None:
    base, model = finetuned("llama", tuned)
    notes: list[str] = []
    adapter = run_stage(STAGE, {"model": model, "base": base}, notes=notes, rank=RANK, dtype="bfloat16")
    assert adapter.facts["dtype"] == "bfloat16"
    missed = float(notes[0].split("%")[0].rpartition(" ")[2])
    # A bfloat16 is off by 2^-9 at most, 0.11 % as a root mean square, in each of two factors.
    assert 0.1 <= missed <= 0.3


def test_module_names_are_those_of_the_network_where_its_tensors_lack_the_prefix(
    finetuned: Any, run_stage: Any, tmp_path: Path
) -> None:
    directories = []
    for number, directory in enumerate(finetuned("gpt2", tuned)):
        bare = shutil.copytree(directory, tmp_path / f"bare-{number}")
        tensors = load_file(bare / "model.safetensors")
        stripped = {name.removeprefix("transformer."): value for name, value in tensors.items()}
        save_file(stripped, bare / "model.safetensors", metadata={"format": "pt"})
        directories.append(bare)
    base, model = directories
    adapter = run_stage(STAGE, {"model": model, "base": base}, rank=RANK)
    assert "transformer.h.0.attn.c_attn" in Adapter.open(adapter.path).pairs
    found, expected = refolded(run_stage, base, adapter), load_file(model / "model.safetensors")
    assert torch.allclose(
        found["h.0.attn.c_attn.weight"], expected["h.0.attn.c_attn.weight"], rtol=0, atol=3e-6
    )


def test_an_untied_model_of_a_tied_base_has_a_difference_of_its_head(
    tiny_checkpoint: Any, run_stage: Any, make_adapter: Any
) -> None:
    base = tiny_checkpoint("llama-tied")
    down, up = torch.randn(2, 64), torch.randn(320, 2) * 0.1
    tensors = {"lm_head.lora_A.weight": down, "lm_head.lora_B.weight": up}
    trained = run_stage("load.adapter", {}, adapter=str(make_adapter(tensors, r=2, lora_alpha=2)))
    model = run_stage("fuse.lora", {"model": base, "adapter1": trained}, adapters=["adapter1"])
    found = run_stage(STAGE, {"model": model, "base": base}, rank=2, ignore=[])
    (pair,) = Adapter.open(found.path).pairs.values()
    assert (pair.module, pair.rank) == ("lm_head", 2)
    assert torch.allclose(
        refolded(run_stage, base, found)["lm_head.weight"],
        refolded(run_stage, base, trained)["lm_head.weight"],
        atol=1e-5,
    )


def test_what_has_no_difference_is_refused(tiny_checkpoint: Any, run_stage: Any, finetuned: Any) -> None:
    base = tiny_checkpoint("llama")
    with pytest.raises(InputError, match="no linear weight differs"):
        run_stage(STAGE, {"model": base, "base": base})
    with pytest.raises(InputError, match="the model is a llama, its base a qwen2"):
        run_stage(STAGE, {"model": base, "base": tiny_checkpoint("qwen2")})
    _, model = finetuned("t5", everything)
    with pytest.raises(InputError, match=r"shared\.weight differs, and no adapter can store it"):
        run_stage(STAGE, {"model": model, "base": tiny_checkpoint("t5")}, others="save")


def test_another_size_is_refused_with_the_tensor(
    tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_checkpoint("llama"), tmp_path / "grown")
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:2]])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": 322}))
    with pytest.raises(InputError, match=r"is \[322, 64\] in the model and \[320, 64\] in its base"):
        run_stage(STAGE, {"model": directory, "base": tiny_checkpoint("llama")})


def test_the_adapter_is_a_source_that_load_adapter_takes(finetuned: Any, run_stage: Any) -> None:
    base, model = finetuned("llama", tuned)
    made = run_stage(STAGE, {"model": model, "base": base}, rank=RANK)
    again = run_stage("load.adapter", {}, adapter=str(made.path))
    assert again.facts == made.facts
