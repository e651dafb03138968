"""Engines as sessions: held to the same graphs in onnxruntime, and to TensorRT's own names and refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError, RequirementError, StageError
from ingot.artifacts.manifest import Artifact, ArtifactRecord
from ingot.artifacts.schema import build
from ingot.stages.validate import device
from ingot.stages.validate.cost_child import Side
from ingot.stages.validate.quality import QualityParams
from ingot.targets.gpu import Gpu
from ingot.targets.runtimes import engine as module
from ingot.targets.runtimes import engine_about, onnx, program
from ingot.targets.runtimes.base import OnDevice, Sampling
from ingot.targets.runtimes.engine_about import check_machine, read_about
from ingot.targets.runtimes.engine_file import EngineFile
from ingot.targets.runtimes.engine_memory import CudaMemory
from ingot.targets.runtimes.opening import import_runtime, open_session

from . import tensorrt_stand_in as stand_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Engines = Callable[..., tuple[Path, Path]]

ADA = Gpu("L4", "89", 24 << 30, 2040, 6251, "13.0")
HOPPER = replace(ADA, name="H100", sm="90")
SEQUENCE, BATCH = [16, 24], [1, 2]
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not HAS_RTX, reason="needs pip install 'ingot[nvidia]'")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in as tensorrt_rtx, on a machine with a GPU that it knows."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stand_in)
    monkeypatch.setattr(module, "CudaMemory", stand_in.HostMemory)
    monkeypatch.setattr(module, "check_device", lambda device: None)
    monkeypatch.setattr(module.gpu, "probe", lambda: (ADA,))
    monkeypatch.setattr(engine_about, "version_of", lambda name: "1.7.1" if name == "tensorrt_rtx" else None)


@pytest.fixture(scope="session")
def engines(
    tiny_checkpoint: Callable[[str], Path],
    export: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Engines:
    """The graphs of a family as export.onnx_nvidia writes them, and an artifact of engines of them."""
    made: dict[str, tuple[Path, Path]] = {}

    def make(family: str) -> tuple[Path, Path]:
        if family not in made:
            graphs = export(
                tiny_checkpoint(family), stage="export.onnx_nvidia", batch=BATCH, sequence=SEQUENCE
            ).directory
            made[family] = graphs, write_engines(graphs, tmp_path_factory.mktemp(family))
        return made[family]

    return make


def write_engines(graphs: Path, place: Path) -> Path:
    about = json.loads((graphs / "ingot.json").read_text())
    profiles = json.loads((graphs / about["profiles"]).read_text())["graphs"]
    files = {}
    for name, shapes in profiles.items():
        files[name] = {"file": name.replace(".onnx", ".engine")}
        (place / files[name]["file"]).write_bytes(stand_in.serialized(graphs / name, shapes))
    described = {"schema": "ingot/engine/v1", "library": "tensorrt_rtx", "library_version": "1.7.1", "sm": 89,
                 "weights_stripped": False, "engines": files}  # fmt: skip
    (place / "engine.json").write_text(json.dumps(described))
    session = {**about, "format": "tensorrt-engine", "engine": "engine.json"}
    (place / "ingot.json").write_text(json.dumps(session))
    return place


def ids(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(3, 300, shape)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert"])
def test_an_engine_computes_what_its_graph_does(family: str, engines: Engines, library: None) -> None:
    graphs, path = engines(family)
    import_runtime(path)
    session, graph = open_session(path), onnx.open(graphs, threads=1)
    rows, mask = ids(2, 9), np.ones((2, 9), np.int64)
    # A language model's rows are padded on the left, an encoder's on the right.
    mask[1, slice(6, None) if family == "bert" else slice(3)] = 0
    close(session.logits(rows, mask)[mask == 1], graph.logits(rows, mask)[mask == 1])
    assert session.info.runtime == "TensorRT-RTX"
    assert isinstance(session, OnDevice)
    assert (session.device_ms, session.device_bytes) == (0.5, 1024)
    session.close()
    with pytest.raises(StageError, match="the session is closed"):
        session.logits(rows, mask)


def test_a_step_behind_a_past_is_the_whole_sequence_and_takes_the_decode_profile(
    engines: Engines, library: None
) -> None:
    graphs, path = engines("llama")
    session, graph = open_session(path), onnx.open(graphs, threads=1)
    rows = ids(2, 12)
    whole = graph.logits(rows)
    first, past = session.step(rows[:, :9], logits_from=-1)
    assert first.shape[1] == 1
    close(first[:, 0], whole[:, 8])
    # A profile has room for one token behind a past, so three go one by one.
    rest, past = session.step(rows[:, 9:], None, past)
    close(rest, whole[:, 9:])
    assert past.length == 12
    prefill, decode = (context.runs for context in session._graph._engine._engine._contexts)
    assert [run["input_ids"] for run in prefill] == [(2, 9)]
    assert [run["past_key_values.0.key"][2] for run in decode] == [9, 10, 11]


def test_more_rows_than_a_profile_has_room_for_go_through_in_parts(engines: Engines, library: None) -> None:
    graphs, path = engines("llama")
    session, graph = open_session(path), onnx.open(graphs, threads=1)
    rows = ids(5, 7)
    close(session.logits(rows), graph.logits(rows))
    logits, past = session.step(rows[:, :6])
    again, _ = session.step(rows[:, 6:], None, past)
    close(np.concatenate([logits, again], axis=1), graph.logits(rows))
    (prefill, _) = (context.runs for context in session._graph._engine._engine._contexts)
    assert {run["input_ids"][0] for run in prefill} == {1, 2}


def test_a_prompt_longer_than_the_profile_goes_on_token_by_token(engines: Engines, library: None) -> None:
    graphs, path = engines("llama")
    session, graph = open_session(path), onnx.open(graphs, threads=1)
    rows = ids(2, 30)
    mask = np.ones_like(rows)
    mask[0, :5] = 0
    close(session.logits(rows, mask)[mask == 1], graph.logits(rows, mask)[mask == 1])
    found, past = session.step(rows, mask, logits_from=-2)
    close(found, graph.logits(rows, mask)[:, -2:])
    assert past.length == 30


def test_what_an_engine_generates_is_what_its_graph_does(engines: Engines, library: None) -> None:
    graphs, path = engines("llama")
    prompts, sampling = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11]], Sampling(10)
    assert open_session(path).generate(prompts, sampling) == onnx.open(graphs).generate(prompts, sampling)


def test_an_encoder_decoder_has_two_engines(engines: Engines, library: None) -> None:
    graphs, path = engines("t5")
    session, graph = open_session(path), onnx.open(graphs, threads=1)
    sources, targets = ids(3, 8), ids(3, 5, seed=1)
    mask = np.ones_like(sources)
    mask[2, 5:] = 0
    close(
        session.logits(session.encode(sources, mask), targets),
        graph.logits(graph.encode(sources, mask), targets),
    )
    prompts = [[5, 6, 7], [9, 8, 7, 6]]
    assert session.generate(prompts, Sampling(6)) == graph.generate(prompts, Sampling(6))
    assert session.device_bytes == 1024


def test_shapes_of_no_profile_are_refused_with_what_it_takes(engines: Engines, library: None) -> None:
    _, path = engines("bert")
    session = open_session(path)
    with pytest.raises(
        InputError, match=r"input_ids \[1, 25\], profile 0 takes \[1\.\.2, 1\.\.24\]"
    ) as caught:
        session.logits(ids(1, 25))
    assert "export.sequence" in str(caught.value.fix)


def test_what_the_library_refuses_is_told_with_its_reason(
    engines: Engines, library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, path = engines("llama")
    broken = tmp_path / "broken"
    shutil.copytree(path, broken)
    (broken / "model.engine").write_bytes(b"no engine")
    with pytest.raises(
        InputError, match=r"TensorRT-RTX 1\.7\.1 does not open the engine: Error Code 1: magic"
    ):
        open_session(broken)

    def run(context: Any, stream: int) -> bool:
        context._engine._logger.log(stand_in.ILogger.Severity.ERROR, "out of memory")
        return False

    run.__name__ = "execute_async_v3"
    monkeypatch.setattr(stand_in.IExecutionContext, "execute_async_v3", run)
    with pytest.raises(StageError, match="TensorRT-RTX failed in execute_async_v3: out of memory"):
        open_session(path).logits(ids(1, 3))


@pytest.mark.parametrize(
    ("version", "sm", "gpu", "said"),
    [
        (None, 89, ADA, "built by TensorRT-RTX 1.7.1, which is not installed here"),
        ("1.8.0", 89, ADA, "built by TensorRT-RTX 1.7.1, and here is 1.8.0"),
        ("1.7.1", 120, ADA, "the engine was built for SM 120, this GPU is SM 89"),
        ("1.7.1", None, HOPPER, "TensorRT-RTX runs on no GPU of SM 90"),
    ],
)
def test_another_library_or_gpu_is_named_with_its_remedy(
    version: str | None,
    sm: int | None,
    gpu: Gpu,
    said: str,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    about = replace(read_about(engines("llama")[1]), sm=sm)
    monkeypatch.setattr(engine_about, "version_of", lambda _: version)
    with pytest.raises(RequirementError, match=said) as caught:
        check_machine(about, (gpu,))
    assert caught.value.fix


def test_without_a_gpu_an_engine_is_not_opened(engines: Engines, library: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "check_device", program.check_device)
    monkeypatch.setattr(program.gpu, "probe", tuple)
    with pytest.raises(RequirementError, match="this machine lacks a CUDA device"):
        open_session(engines("llama")[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"library": "libevil"}, "library is 'libevil'"),
        ({"sm": "89"}, "sm is '89'"),
        ({"engines": {"model.onnx": {"file": "../../model.engine"}}}, "engines is"),
        ({"engines": {}}, "engines is"),
        ({"schema": "ingot/engine/v2"}, "schema is"),
        ({"weights_stripped": True}, "has no weights in it"),
    ],
)
def test_what_cannot_be_is_refused_before_a_library_sees_it(
    change: dict[str, Any], said: str, engines: Engines, tmp_path: Path
) -> None:
    place = tmp_path / "changed"
    shutil.copytree(engines("llama")[1], place)
    described = json.loads((place / "engine.json").read_text())
    (place / "engine.json").write_text(json.dumps({**described, **change}))
    with pytest.raises(InputError, match=said):
        read_about(place)


def test_memory_of_the_device_offers_what_the_stand_in_does() -> None:
    ours = {name for name in vars(stand_in.HostMemory) if not name.startswith("_")}
    instance = {name for name in vars(stand_in.HostMemory()) if not name.startswith("_")}
    source = set(vars(CudaMemory))
    assert ours <= source
    assert instance - {"device_ms", "most_bytes"} <= source


@pytest.mark.device
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs pip install 'ingot[nvidia]'"
)
def test_every_name_of_the_stand_in_is_one_of_tensorrts() -> None:
    import tensorrt_rtx

    for cls in stand_in.FEW:
        theirs = tensorrt_rtx.ILogger.Severity if cls.__qualname__.endswith("Severity") else getattr(
            tensorrt_rtx, cls.__name__
        )  # fmt: skip
        missing = [name for name in vars(cls) if not name.startswith("_") and not hasattr(theirs, name)]
        assert [name for name in missing if name != "runs"] == [], cls


@pytest.mark.device
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs pip install 'ingot[nvidia]'"
)
@pytest.mark.skipif(bool(module.gpu.probe()), reason="a GPU is here")
def test_without_a_driver_tensorrts_own_words_say_why_an_engine_does_not_open(
    engines: Engines, export: Callable[..., Any]
) -> None:
    made = export(engines("llama")[0], "onnx", "export.tensorrt", sm=89).directory
    with pytest.raises(InputError, match=r"TensorRT-RTX 1\..* does not open the engine: .*CUDA driver"):
        EngineFile(made / "model.engine", "tensorrt_rtx", stand_in.HostMemory())


def test_quality_and_cost_are_measured_through_the_engine_that_is_delivered(
    engines: Engines, library: None, tiny_checkpoint: Callable[[str], Path], run_stage: Any, tmp_path: Path
) -> None:
    sentence = "The river ran past mill number {} and the road ran with the river to the town. "
    text = tmp_path / "held-out.txt"
    text.write_text("\n<|endoftext|>\n".join(sentence.format(number) * 4 for number in range(12)))
    reference = run_stage(
        "validate.reference", {"model": tiny_checkpoint("llama")}, evaluation=str(text), window=32
    )
    graphs, path = engines("llama")
    measured = {}
    for kind, place in (("onnx", graphs), ("tensorrt-engine", path)):
        artifact = Artifact("0" * 64, ArtifactRecord(kind, (), {}), place)
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            if not (place / name).exists():
                shutil.copy(graphs / name, place / name)
        found = run_stage("validate.quality", {"artifact": artifact, "reference": reference})
        measured[kind] = json.loads((found.path / "measurements.json").read_text())
    ours, theirs = measured["tensorrt-engine"], measured["onnx"]
    assert ours["environment"] == {"runtime": "TensorRT-RTX", "runtime_version": "1.7.1"}
    # Windows of 32 tokens are longer than the profile, and batches larger.
    for name in ("perplexity", "kl_divergence", "parity_max_error"):
        assert ours["metrics"][name]["value"] == pytest.approx(theirs["metrics"][name]["value"], rel=0.05)
    assert ours["metrics"]["perplexity"]["tokens"] > 1000

    side = Side(path, 1, "cuda")
    assert side.answer({"do": "load"})["runtime"] == "TensorRT-RTX"
    prefill = side.answer({"do": "prefill", "tokens": 16, "batch": 2})
    steps = side.answer({"do": "decode", "tokens": 4, "batch": 2})
    assert (prefill["device_ms"], steps["device_ms"]) == ([0.5], [0.5] * 4)
    assert len(steps["ms"]) == 4
    assert side.answer({"do": "memory"})["device_bytes"] == 1024


@pytest.mark.parametrize(
    ("library", "gpus", "lacks"),
    [
        (
            "none",
            (),
            {"a library that runs TensorRT engines", "a CUDA device", "a torch that is built for CUDA"},
        ),
        ("tensorrt_rtx", (HOPPER,), {"a TensorRT-RTX for SM 90"}),
        ("tensorrt_rtx", (ADA,), set()),
        ("tensorrt", (HOPPER,), set()),
    ],
)
def test_what_running_an_engine_takes_is_known_while_planning(
    library: str, gpus: tuple[Gpu, ...], lacks: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "tensorrt_library", lambda: library)
    monkeypatch.setattr(device, "probe", lambda: gpus)
    monkeypatch.setattr(program.gpu, "probe", lambda: gpus)
    monkeypatch.setattr(program.gpu, "cuda_of_torch", lambda: "13.0" if gpus else None)
    params = build(QualityParams, {"device": "cuda"}, prefix="quality")
    unmet = [each for each in device.requirements(replace(params, format="tensorrt-engine")) if not each.met]
    assert {each.name for each in unmet} == lacks
    assert all(each.fix and each.is_device for each in unmet)
