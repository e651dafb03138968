"""Shared layers: the network that transformers makes of equal weights, stored once in every form."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("llama", "qwen3", "gpt2", "bert", "mixtral")
IDS = np.arange(4, 44, dtype=np.int64).reshape(2, 20)
# Of a tensor's name, the layer; what stands behind it is the same in all layers.
LAYER = re.compile(r"^(.*?(?:layers|layer|h)\.)(\d+)(\..*)$")


def outputs(directory: Path) -> Any:
    from ingot.stages.model.checkpoint import Checkpoint
    from ingot.stages.model.torch_network import Network

    return Network(directory, Checkpoint.open(directory).architecture.task)(IDS)


def of_onnx(directory: Path) -> Any:
    from ingot.targets.runtimes import onnx

    session = onnx.open(directory, threads=1)
    try:
        return session.logits(IDS)
    finally:
        session.close()


def with_equal_layers(source: Path, directory: Path, part: str = "") -> Path:
    """A plain checkpoint whose layers 0 and 1 have the mean of their tensors with ``part`` in the name."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, directory)
    weights = load_file(directory / "model.safetensors")
    for name in list(weights):
        found = LAYER.match(name)
        if found and found[2] == "0" and part in name:
            other = f"{found[1]}1{found[3]}"
            mean = ((weights[name].astype(np.float64) + weights[other]) / 2).astype(np.float32)
            weights[name] = weights[other] = mean
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_layer_computes_what_two_equal_ones_compute(
    family: str, tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    from ..model.blocks.test_network import walk

    equal = with_equal_layers(tiny_checkpoint(family), tmp_path / "equal")
    made = run_stage("share.layers", {"model": tiny_checkpoint(family)}, groups=((0, 1),))
    np.testing.assert_allclose(outputs(made.path), outputs(equal), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(walk(made.path), walk(equal))
    artifact = run_stage("export.onnx", {"model": made})
    np.testing.assert_allclose(of_onnx(artifact.path), outputs(equal), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("modules", "part"), [("attention", "self_attn"), ("mlp", "mlp")])
def test_the_other_half_of_a_layer_stays_its_own(
    modules: str, part: str, tiny_checkpoint: Any, run_stage: Any, tmp_path: Path
) -> None:
    equal = with_equal_layers(tiny_checkpoint("llama"), tmp_path / "equal", part)
    made = run_stage("share.layers", {"model": tiny_checkpoint("llama")}, every=2, modules=modules)
    np.testing.assert_allclose(outputs(made.path), outputs(equal), rtol=1e-5, atol=1e-5)


def test_the_first_of_a_group_can_be_what_all_use(tiny_checkpoint: Any, run_stage: Any) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    directory = tiny_checkpoint("gpt2", "bfloat16")
    made = run_stage("share.layers", {"model": directory}, groups=((1, 0),), source="first")
    before, after = (Checkpoint.open(each).tensors for each in (directory, made.path))
    for name in before.names():
        if name.startswith("transformer.h.0."):
            assert after.info(name).shape == (0,)
        else:
            assert after.raw(name).tobytes() == before.raw(name).tobytes()


def layer_bytes(directory: Path, only: str = "") -> int:
    """The bytes of layer 1 as the checkpoint stores it."""
    from ingot.stages.model.checkpoint import Checkpoint

    tensors = Checkpoint.open(directory).tensors
    infos = [tensors.info(name) for name in tensors.names() if ".1." in name and only in name]
    return sum(info.nbytes for info in infos)


def test_the_bytes_of_two_layers_are_stored_once_in_safetensors_and_in_onnx(
    tiny_checkpoint: Any, run_stage: Any
) -> None:
    directory = tiny_checkpoint("llama")
    made = run_stage("share.layers", {"model": directory}, groups=((0, 1),))
    size = (directory / "model.safetensors").stat().st_size
    shared = (made.path / "model.safetensors").stat().st_size
    saved = layer_bytes(directory)
    assert saved > 150_000
    assert size - shared == pytest.approx(saved, abs=1_000)
    assert made.facts["weight_bytes"] == shared
    assert (
        made.facts["parameters"]
        == run_stage("load", {}, model=str(directory)).facts["parameters"] - saved // 4
    )
    before, after = (
        (run_stage("export.onnx", {"model": each}).path / "model.onnx").stat().st_size
        for each in (directory, made)
    )
    assert before - after == pytest.approx(saved, abs=3_000)


@pytest.mark.parametrize(
    ("stage", "params"),
    [
        ("quantize.rtn", {"bits": 4, "group_size": 32}),
        ("quantize.dynamic", {}),
        ("quantize.gptq", {"bits": 4, "group_size": 32}),
        ("quantize.awq", {"bits": 4, "group_size": 32}),
        ("quantize.static", {}),
        ("quantize.mixed", {"bits_per_weight": 5.0}),
    ],
)
@pytest.mark.parametrize("modules", ["all", "mlp"])
def test_the_codes_of_shared_weights_are_stored_once_and_compute_what_they_stand_for(
    stage: str,
    params: dict[str, object],
    modules: str,
    tiny_checkpoint: Any,
    run_stage: Any,
    calibration: Path,
) -> None:
    from ingot.stages.model.quantized import QuantizedCheckpoint

    if stage not in ("quantize.rtn", "quantize.dynamic"):
        params = {**params, "calibration": str(calibration), "samples": 8, "window": 64}
    directory = tiny_checkpoint("llama")
    shared = run_stage("share.layers", {"model": directory}, groups=((0, 1),), modules=modules)
    made = run_stage(stage, {"model": shared}, **params)
    quantized = QuantizedCheckpoint.open(made.path)
    layers = [name for name in quantized.quantized if ".layers." in name]
    assert len(layers) == {"all": 7, "mlp": 11}[modules]
    assert not any(".layers.1.mlp" in name for name in layers)
    whole = run_stage("expand", {"model": run_stage("dequantize", {"model": made})})
    artifact = run_stage("export.onnx", {"model": made}, accuracy_level=0)
    if stage in ("quantize.rtn", "quantize.gptq", "quantize.awq"):  # the others round activations as well
        np.testing.assert_allclose(of_onnx(artifact.path), outputs(whole.path), rtol=1e-3, atol=5e-3)
    if stage == "quantize.mixed":
        return  # which gives the same weight other bits
    plain = run_stage(stage, {"model": directory}, **params)
    specs = QuantizedCheckpoint.open(plain.path).quantized.items()
    saved = [
        spec.payload_bits // 8
        for name, spec in specs
        if ".layers.1." in name and modules in ("all", name.split(".")[3])
    ]
    whole = run_stage("export.onnx", {"model": plain}, accuracy_level=0)
    sizes = [(each.path / "model.onnx").stat().st_size for each in (whole, artifact)]
    assert sizes[0] - sizes[1] == pytest.approx(sum(saved), rel=0.1)


def test_a_shared_weight_is_calibrated_on_all_of_its_uses(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    """XᵀX over both layers: that of one network is the sum of what two walks see by themselves."""
    import torch
    from ingot.stages.model.calibration.journal import Journal
    from ingot.stages.model.calibration.samples import take
    from ingot.stages.model.calibration.shelf import Shelf
    from ingot.stages.model.calibration.walk import Walk
    from ingot.stages.model.checkpoint import Checkpoint

    seen: dict[str, list[torch.Tensor]] = {}

    class Sums:
        compares = False
        wanted = frozenset({"model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"})

        def visit(self, stop: Any) -> None:
            for linear in stop.linears:
                if linear.name in self.wanted:
                    rows = torch.cat(list(stop.inputs))
                    seen.setdefault(linear.name, []).append(rows.T @ rows)

        def collect(self) -> Any:
            return {}, {}

    def walk(directory: Path, job: Path) -> None:
        checkpoint = Checkpoint.open(directory)
        samples = take(calibration, directory, checkpoint.architecture, 64, 8)
        shelf = Shelf(1 << 30, job)
        device = torch.device("cpu")
        Walk(
            checkpoint.architecture, checkpoint.tensors, samples.batches, shelf, device, torch.float32, 1
        ).run(Sums(), Journal(job, "x"), lambda *_: None)

    shared = run_stage("share.layers", {"model": tiny_checkpoint("llama")}, groups=((0, 1),), modules="mlp")
    whole = run_stage("expand", {"model": shared})
    walk(shared.path, calibration.parent)
    (together,) = seen.pop("model.layers.0.mlp.up_proj.weight")
    assert not seen
    (calibration.parent / "walk.json").unlink()
    walk(whole.path, calibration.parent)
    (first,), (second,) = seen.values()
    torch.testing.assert_close(together, first + second, rtol=1e-4, atol=1e-2)


def test_a_walk_that_was_killed_between_two_uses_goes_on_from_before_the_first(
    tiny_checkpoint: Any, store: Any, calibration: Path, tmp_path: Path, run_stage: Any
) -> None:
    from ingot.artifacts.schema import build
    from ingot.stages import base

    shared = run_stage("share.layers", {"model": tiny_checkpoint("llama")}, groups=((0, 1),), modules="mlp")
    stage = base.get("quantize.gptq")
    params = build(stage.params, {"calibration": str(calibration), "samples": 8, "window": 64, "bits": 4})

    def run(job: Path, progress: Any) -> str:
        job.mkdir(exist_ok=True)
        with store.outbox() as outbox:
            context = base.Context(params, {"model": shared}, outbox, job, 0, 1, progress, lambda _text: None)
            result = stage.run(context)
            return outbox.publish(stage.output, result.facts).digest

    def killed(_done: int, _total: int, what: str) -> None:
        if what == "layers.1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "job", killed)
    met: list[str] = []
    again = run(tmp_path / "job", lambda _done, _total, what: met.append(what))
    assert again == run(tmp_path / "fresh", lambda *_: None)
    assert "layers.0" in met, "what was held for the second use is in no record"
    assert "embedding" not in met


def test_plain_transformers_refuses_shared_layers(tiny_checkpoint: Any, run_stage: Any) -> None:
    import transformers

    for family, name in (("llama", "AutoModelForCausalLM"), ("bert", "BertModel"), ("mixtral", "AutoModel")):
        made = run_stage("share.layers", {"model": tiny_checkpoint(family)}, every=2, modules="mlp")
        with pytest.raises(RuntimeError):
            getattr(transformers, name).from_pretrained(made.path, local_files_only=True)


def test_what_is_shared_can_be_factored_and_pruned(
    tiny_checkpoint: Any, run_stage: Any, calibration: Path
) -> None:
    shared = run_stage("share.layers", {"model": tiny_checkpoint("llama")}, groups=((0, 1),))
    given = {"calibration": str(calibration), "samples": 8, "window": 64}
    factored = run_stage("factor.svd_llm", {"model": shared}, ratio=0.8, **given)
    assert len(factored.facts["rank_by_weight"]) == 7
    pruned = run_stage("prune.wanda", {"model": factored}, sparsity=0.5, **given)
    whole = run_stage("expand", {"model": pruned})
    artifact = run_stage("export.onnx", {"model": pruned})
    np.testing.assert_allclose(of_onnx(artifact.path), outputs(whole.path), rtol=1e-3, atol=5e-3)


def test_bad_requests_are_refused(tiny_checkpoint: Any, run_stage: Any) -> None:
    for params, message in (
        ({}, "neither groups nor every"),
        ({"groups": ((0, 1),), "every": 2}, "both groups and every"),
        ({"groups": ((0, 2),)}, "there is no layer 2, only 0 to 1"),
        ({"groups": ((0, 1), (1, 0))}, "layer 1 is named twice"),
        ({"groups": ((0,),)}, r"\[0\] is less than two layers"),
        ({"every": 2, "ignore": ("*.nope",)}, r"'\*.nope' matches no tensor"),
        ({"every": 2, "ignore": ("*",)}, "nothing would be shared"),
        ({"every": 2, "half": "encoder"}, "a llama network has no encoder"),
    ):
        with pytest.raises(RecipeError, match=message):
            run_stage("share.layers", {"model": tiny_checkpoint("llama")}, **params)


def test_layers_of_different_shapes_share_nothing(tiny_checkpoint: Any, run_stage: Any) -> None:
    with pytest.raises(RecipeError, match="layers 0, 1 differ in shape"):
        run_stage("share.layers", {"model": tiny_checkpoint("qwen2_moe")}, every=2)
