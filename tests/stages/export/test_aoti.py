"""Programs with a static cache against transformers, from every family, from codes, exported and compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from ingot.artifacts.errors import InputError, StageError
from ingot.stages.export.aoti.packing import Packed, Weights
from ingot.stages.export.aoti.programs import KINDS
from ingot.stages.export.aoti.stage import AotiParams, check_network, session_json
from ingot.stages.model import parity
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.quantized import QuantizedCheckpoint, QuantizedWeight, WeightFormat, WeightSpec
from ingot.stages.model.torch_network import Network
from ingot.targets.runtimes import aoti
from ingot.targets.runtimes.base import Sampling
from ingot.targets.runtimes.opening import open_session
from ingot.targets.runtimes.program import PROGRAMS, compile_packages, load_program
from ingot.targets.runtimes.static_session import StaticSession
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

if TYPE_CHECKING:
    from collections.abc import Callable

ON_CPU = AotiParams(dtype="float32", max_length=64, device="cpu", engine="eager")
FAMILIES = (
    "llama", "llama-tied", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma", "gemma2", "gemma3_text",
    "gpt_neox", "opt",
)  # fmt: skip


def untraced(directory: Path, quantized: QuantizedCheckpoint | None = None) -> StaticSession:
    """A session whose programs are the modules themselves, which need no tracing."""
    checkpoint = quantized.checkpoint if quantized else Checkpoint.open(directory)
    model = checkpoint.architecture
    weights = Weights(checkpoint, quantized, model, "float32", 64)
    about = session_json(model, ON_CPU, 64, directory)
    given = {entry.shape.name: entry.make() for entry in weights.entries()}
    programs = {
        name: kind(weights.joined.model, tuple(given), weights.packed, torch.float32).eval()
        for name, kind in KINDS.items()
    }
    return StaticSession(about, programs, list(given.values()), "cpu", "eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_call_a_family_gives_what_transformers_gives(
    family: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    directory = tiny_checkpoint(family)
    network, outline = Network(directory, "causal-lm"), Checkpoint.open(directory).outline
    session = untraced(directory)
    cases = parity.measure(session, parity.reference_rows(network, outline))
    assert parity.worst(cases) < 2e-4, cases
    long = np.random.default_rng(0).integers(0, outline.vocabulary, (2, 40))
    assert np.abs(session.logits(long) - network(long)).max() < 2e-4


def test_the_tensors_of_the_programs_are_laid_out_as_they_are_made(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint("gpt2"))
    entries = Weights(checkpoint, None, checkpoint.architecture, "bfloat16", 32).entries()
    assert [entry.shape.name for entry in entries] == sorted({entry.shape.name for entry in entries})
    sizes = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
    for entry in entries:
        for made in (entry.make(), entry.blank()):
            assert (tuple(made.shape), made.dtype) == (entry.shape.shape, sizes[entry.shape.dtype])


@pytest.mark.parametrize(
    ("bits", "group", "features"), [(8, 0, 24), (8, 16, 40), (4, 16, 64), (4, 0, 6), (3, 16, 48)]
)
@pytest.mark.parametrize("sym", [True, False])
def test_codes_multiply_as_the_weights_that_they_stand_for(
    bits: int, group: int, features: int, sym: bool
) -> None:
    random = np.random.default_rng(bits)
    spec = WeightSpec(WeightFormat(bits, group, sym), (5, features))
    weight = QuantizedWeight(
        "w",
        spec,
        random.integers(0, 2**bits, (5, features), dtype=np.uint8),
        random.random((5, spec.groups), dtype=np.float32),
        random.integers(0, 2**bits, (5, spec.groups), dtype=np.uint8),
    )
    packed = Packed.of("w", spec)
    stored = packed.store(torch.from_numpy(weight.codes))
    assert packed.in_halves == (bits <= 4 and stored.shape[1] * 2 == features)
    scales, zeros = torch.from_numpy(weight.scales), torch.from_numpy(weight.zeros)
    tensors = {"w.codes": stored, "w.scales": scales, "w.zeros": zeros}
    value = torch.from_numpy(random.standard_normal((2, 3, features), dtype=np.float32))
    expected = value @ torch.from_numpy(weight.dequantize()).T
    torch.testing.assert_close(packed.multiply(tensors, value), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(packed.multiply_few(tensors, value), expected, rtol=1e-5, atol=1e-4)
    ids = torch.tensor([[4, 0], [2, 2]])
    rows = torch.from_numpy(weight.dequantize())[ids]
    torch.testing.assert_close(packed.rows(tensors, ids), rows, rtol=0, atol=0)


@pytest.mark.parametrize(
    "params",
    [{"bits": 8}, {"bits": 4, "group_size": 16, "embedding_bits": 8, "lm_head_bits": 8}],
    ids=["int8", "int4"],
)
def test_a_network_of_codes_computes_what_the_codes_stand_for(
    params: dict[str, Any], make_from: Callable[..., Any], tmp_path: Path
) -> None:
    made = make_from("llama-tied", "quantize.rtn", **params)
    whole = make_from_artifact(made.artifact.path, tmp_path)
    network = Network(whole, "causal-lm")
    session = untraced(made.artifact.path, QuantizedCheckpoint.open(made.artifact.path))
    cases = parity.measure(session, parity.reference_rows(network, Checkpoint.open(whole).outline))
    assert parity.worst(cases) < 2e-4, cases


def make_from_artifact(path: Path, tmp_path: Path) -> Path:
    """The checkpoint in floating point that a quantized one stands for."""
    from safetensors.numpy import save_file

    source, place = QuantizedCheckpoint.open(path), tmp_path / "whole"
    place.mkdir()
    tensors = {name: source.checkpoint.tensors.float32(name) for name in source.float_names()}
    tensors |= {name: source.weight(name).dequantize() for name in source.quantized}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json"):
        (place / name).write_bytes((path / name).read_bytes())
    return place


def assert_sizes_are_those_of_inputs(program: torch.export.ExportedProgram) -> None:
    """No tensor has a size of its own that only running tells: AOTInductor of torch 2.11 fails on some."""
    for node in program.graph.nodes:
        assert not free_unbacked_symbols(node.meta.get("val")), node
        is_slice = node.target is torch.ops.aten.slice.Tensor
        assert not (is_slice and any(isinstance(place, torch.fx.Node) for place in node.args[1:])), node


def test_the_stage_writes_programs_without_weights_that_run_eagerly(
    make_from: Callable[..., Any], tiny_checkpoint: Callable[[str], Path]
) -> None:
    made = make_from(
        "llama", "export.aoti_cuda", dtype="float32", max_length=64, device="cpu", engine="eager"
    )
    path = made.artifact.path
    files = {file.path: file.size for file in made.artifact.record.files}
    assert {"weights.safetensors", "prefill.pt2", "head.pt2", "decode.pt2", "ingot.json"} <= files.keys()
    weights = files["weights.safetensors"]
    assert max(files[f"{name}.pt2"] for name in ("prefill", "head", "decode")) < weights
    for name in PROGRAMS:
        assert_sizes_are_those_of_inputs(load_program(path, name, "cpu"))
    session = open_session(path, threads=1)
    directory = tiny_checkpoint("llama")
    network = Network(directory, "causal-lm")
    cases = parity.measure(session, parity.reference_rows(network, Checkpoint.open(directory).outline))
    assert parity.worst(cases) < 2e-4, cases
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5]]
    found = session.generate(prompts, Sampling(6))
    for prompt, tokens in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in tokens:
            assert int(network(np.array([ids]))[0, -1].argmax()) == token
            ids.append(token)
    session.close()
    with pytest.raises(StageError, match="closed"):
        session.logits(np.array([[1]]))


@pytest.mark.device  # a C++ compiler
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself while it is imported
def test_packages_of_aotinductor_compute_what_the_programs_do(
    make_from: Callable[..., Any], tiny_checkpoint: Callable[[str], Path]
) -> None:
    made = make_from("llama", "export.aoti_cuda", dtype="float32", max_length=32, device="cpu")
    (tag,) = {Path(file.path).parts[1] for file in made.artifact.record.files if "compiled" in file.path}
    assert tag.startswith("torch-")
    directory = tiny_checkpoint("llama")
    network = Network(directory, "causal-lm")
    with_package = aoti.open(made.artifact.path, threads=1)
    cases = parity.measure(with_package, parity.reference_rows(network, Checkpoint.open(directory).outline))
    assert parity.worst(cases) < 2e-4, cases
    assert aoti.prepare(made.artifact.path) is None
    eager = aoti.open(made.artifact.path, threads=1, engine="eager")
    ids = np.random.default_rng(1).integers(0, 320, (3, 7))
    assert np.abs(with_package.logits(ids) - eager.logits(ids)).max() < 2e-4


@pytest.mark.device  # a C++ compiler
def test_a_program_that_does_not_compile_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    for name in PROGRAMS:
        (tmp_path / f"{name}.pt2").write_bytes(b"no program")
    with pytest.raises(StageError, match="AOTInductor does not compile prefill for cpu: "):
        compile_packages(tmp_path, {}, "cpu", tmp_path / "compiled")
    assert not list((tmp_path / "compiled").iterdir())


def test_without_the_gpu_the_packages_are_left_to_the_machine_that_has_it(
    make_from: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ingot.artifacts.errors import RequirementError
    from ingot.targets import gpu

    monkeypatch.setattr(gpu, "probe", lambda: ())
    made = make_from("llama", "export.aoti_cuda", max_length=32)
    assert not [file for file in made.artifact.record.files if "compiled" in file.path]
    assert "ingot validate" in made.notes[0]
    with pytest.raises(RequirementError, match="lacks a CUDA device"):
        open_session(made.artifact.path)


def test_a_past_that_was_written_over_is_refused_and_padding_between_tokens_too(
    tiny_checkpoint: Callable[[str], Path],
) -> None:
    session = untraced(tiny_checkpoint("llama"))
    ids = np.array([[1, 2, 3]])
    _, past = session.step(ids)
    session.step(ids)
    with pytest.raises(StageError, match="wrote over this past"):
        session.step(ids[:, :1], None, past)
    with pytest.raises(InputError, match="between others"):
        session.logits(ids, np.array([[1, 0, 1]]))
    with pytest.raises(InputError, match="outside the vocabulary"):
        session.logits(np.array([[9999]]))
    with pytest.raises(InputError, match="more than the model's context"):
        session.logits(np.zeros((1, 65), np.int64))


def test_what_ingot_json_says_is_checked(make_from: Callable[..., Any], tmp_path: Path) -> None:
    made = make_from(
        "llama", "export.aoti_cuda", dtype="float32", max_length=32, device="cpu", engine="eager"
    )
    about = json.loads((made.artifact.path / "ingot.json").read_text("utf-8"))
    for name, wrong in (("layers", 10**9), ("dtype", "float8"), ("engine", "shell"), ("eos_ids", "x")):
        (tmp_path / "ingot.json").write_text(json.dumps({**about, name: wrong}), "utf-8")
        with pytest.raises(InputError, match=f"{name} is"):
            open_session(tmp_path)


@pytest.mark.parametrize(("family", "what"), [("bert", "an encoder"), ("mixtral", "a mixture of experts")])
def test_networks_that_the_programs_do_not_compute_are_named(
    family: str, what: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match=what):
        check_network(Checkpoint.open(tiny_checkpoint(family)).architecture, 0)
