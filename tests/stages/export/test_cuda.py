"""What needs an NVIDIA GPU: packages compiled for it, their graphs, a target verified on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.stages.model import parity
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.torch_network import Network
from ingot.targets import gpu, host
from ingot.targets.libraries import NONE, RTX_SM, TENSORRT_RTX, tensorrt_library
from ingot.targets.nvml import Watch
from ingot.targets.runtimes import aoti, onnx
from ingot.targets.runtimes.base import OnDevice, Sampling
from ingot.targets.runtimes.opening import open_session
from ingot.targets.runtimes.program import tag

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(not gpu.probe(), reason="no CUDA device is here"),
    pytest.mark.filterwarnings("ignore"),
]


def runs_engines() -> bool:
    library, gpus = tensorrt_library(), gpu.probe()
    return library != NONE and bool(gpus) and (library != TENSORRT_RTX or int(gpus[0].sm) in RTX_SM)


@pytest.fixture
def exported(make_from: Callable[..., Any]) -> Callable[..., Path]:
    return lambda **params: make_from("llama", "export.aoti_cuda", max_length=64, **params).artifact.path


def test_cuda_the_driver_tells_of_the_device_what_torch_does() -> None:
    import torch

    (first, *_), properties = gpu.probe(), torch.cuda.get_device_properties(0)
    assert first.name == properties.name
    assert first.sm == f"{properties.major}{properties.minor}"
    assert abs(first.memory_bytes / properties.total_memory - 1) < 0.05
    assert first in host.probe().gpus


@pytest.mark.parametrize("engine", ["eager", "compile", "aoti"])
def test_cuda_every_engine_computes_what_transformers_does(
    engine: str, exported: Callable[..., Path], tiny_checkpoint: Callable[[str], Path]
) -> None:
    directory = tiny_checkpoint("llama")
    session = aoti.open(exported(dtype="float32", engine=engine))
    network = Network(directory, "causal-lm")
    cases = parity.measure(session, parity.reference_rows(network, Checkpoint.open(directory).outline))
    assert parity.worst(cases) < 1e-3, cases
    assert isinstance(session, OnDevice)
    assert session.device_ms is not None
    assert session.device_ms > 0
    assert session.device_bytes > 0


def test_cuda_packages_are_compiled_by_the_export_and_their_steps_are_graphs(
    exported: Callable[..., Path],
) -> None:
    path = exported(dtype="bfloat16")
    assert (path / "compiled" / tag("cuda") / "decode.pt2").is_file()
    session = aoti.open(path)
    eager = aoti.open(path, engine="eager")
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5]]
    assert session.generate(prompts, Sampling(8))[0][:2] == eager.generate(prompts, Sampling(8))[0][:2]
    assert session._graphs.keys() == {2}
    ids = np.random.default_rng(0).integers(0, 320, (3, 12))
    assert np.abs(session.logits(ids) - eager.logits(ids)).max() < 0.5


def test_cuda_utilisation_is_read_by_nvml() -> None:
    import torch

    with Watch() as watch:
        big = torch.ones(4096, 4096, device="cuda")
        for _ in range(200):
            big = torch.tanh(big @ big)
        torch.cuda.synchronize()
    assert watch.summary()["memory_used_bytes_max"] > 0


@pytest.mark.skipif(not runs_engines(), reason="no library here runs TensorRT engines on this GPU")
def test_cuda_an_engine_computes_what_its_graph_does_and_keeps_its_past_on_the_device(
    tiny_checkpoint: Callable[[str], Path], export: Callable[..., Any]
) -> None:
    graphs = export(tiny_checkpoint("llama"), stage="export.onnx_nvidia", batch=[1, 2], sequence=[16, 24])
    made = export(graphs.directory, "onnx", "export.tensorrt", sm=int(gpu.probe()[0].sm))
    session, graph = open_session(made.directory), onnx.open(graphs.directory, threads=1)
    random = np.random.default_rng(0)
    # More rows than the profile takes at once, and a prompt that goes on token by token.
    for shape in ((2, 9), (5, 7), (1, 30)):
        ids = random.integers(3, 300, shape)
        assert np.abs(session.logits(ids) - graph.logits(ids)).max() < 0.05
    rows = random.integers(3, 300, (2, 12))
    first, past = session.step(rows[:, :9], logits_from=-1)
    rest, past = session.step(rows[:, 9:], None, past)
    found = np.concatenate([first, rest], axis=1)
    assert np.abs(found - graph.logits(rows)[:, 8:]).max() < 0.05
    assert all(tensor.is_cuda for tensor in past.tensors.values())
    assert isinstance(session, OnDevice)
    assert session.device_ms is not None
    assert session.device_ms > 0
    assert session.device_bytes > 0
    session.close()


def test_cuda_a_target_for_a_gpu_is_verified_where_one_is(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    import ingot

    sentence = "The river ran past mill number {} and the road ran with the river to the town. "
    text = tmp_path / "held-out.txt"
    text.write_text("\n<|endoftext|>\n".join(sentence.format(number) * 4 for number in range(12)))
    run = ingot.run(
        model=tiny_checkpoint("llama"), targets=["nvidia-aoti"], data={"evaluation": text},
        measure={"cost": {"repeats": 1, "passes": 1, "prefill_tokens": 16, "decode_tokens": 4}},
        gates={"perplexity": {"max_increase": "20%"}}, store=tmp_path / "store", out=tmp_path / "out",
    )  # fmt: skip
    target = run.targets["nvidia-aoti"]
    assert target.status == "pass", target.explanation
    assert target.metrics["device_memory_bytes"].value > 0
    manifest = json.loads((tmp_path / "out" / "nvidia-aoti" / "manifest.json").read_text("utf-8"))
    assert any(file["path"].startswith("compiled/") for file in manifest["files"])
