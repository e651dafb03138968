"""How an artifact for phones gets into an app: the runtime, its version, and lines that load and run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMATS = ("executorch", "torchscript")


def packaging_section(form: str, session: Mapping[str, Any]) -> Iterator[str]:
    """Markdown for the model card of a delivery of one of FORMATS. session: what `ingot.json` says."""
    if form not in FORMATS:
        return
    keeps_past = form == "executorch" and session.get("task") == "causal-lm"
    wanted = str(session.get("requires", {}).get("executorch", ""))
    yield "## Put it into an app"
    yield ""
    yield from _executorch(wanted, keeps_past) if form == "executorch" else _torchscript()
    yield ""
    if keeps_past:
        yield "Positions index the cache: a prompt is one call with positions 0, 1, …; each new token is a"
        yield f"call with the next one, below {session.get('context')}. A new text begins at 0 again."
    else:
        yield f"It takes one text, without padding, of up to {session.get('context')} tokens."


def _executorch(wanted: str, keeps_past: bool) -> Iterator[str]:
    yield f"Android: `org.pytorch:executorch-android`, version {wanted}, of which XNNPACK is part."
    yield f"iOS: the Swift package `executorch` {wanted}, with `backend_xnnpack`, `kernels_optimized`."
    yield "A program runs on the version it was made with and on later ones of the same major number."
    yield ""
    yield "```kotlin"
    yield 'val module = Module.load("${context.filesDir}/model.pte")'
    yield "val ids = Tensor.fromBlob(tokens, longArrayOf(1, tokens.size.toLong()))"
    if keeps_past:
        yield "val places = LongArray(tokens.size) { start + it }"
        yield "val positions = Tensor.fromBlob(places, longArrayOf(tokens.size.toLong()))"
        yield "val output = module.forward(EValue.from(ids), EValue.from(positions))[0].toTensor()"
    else:
        yield "val output = module.forward(EValue.from(ids))[0].toTensor()"
    yield "val values = output.dataAsFloatArray"
    yield "```"
    yield ""
    yield "```swift"
    yield "import ExecuTorch"
    yield 'let module = Module(filePath: Bundle.main.path(forResource: "model", ofType: "pte")!)'
    yield "let ids = Tensor<Int64>(tokens, shape: [1, tokens.count])"
    if keeps_past:
        yield "let positions = Tensor<Int64>((start..<start + tokens.count).map(Int64.init))"
        yield "let output: Tensor<Float> = try module.forward(ids, positions)[0].tensor()!"
    else:
        yield "let output: Tensor<Float> = try module.forward(ids)[0].tensor()!"
    yield "let values = output.scalars()"
    yield "```"


def _torchscript() -> Iterator[str]:
    yield "The lite interpreter is no longer developed; new apps load the `.pte` of `export.executorch`."
    yield "Android: `org.pytorch:pytorch_android_lite`. iOS: the pod `LibTorch-Lite`, which Swift calls"
    yield "through a few lines of Objective-C++."
    yield ""
    yield "```kotlin"
    yield 'val module = LiteModuleLoader.load("${context.filesDir}/model.ptl")'
    yield "val ids = Tensor.fromBlob(tokens, longArrayOf(1, tokens.size.toLong()))"
    yield "val values = module.forward(IValue.from(ids)).toTensor().dataAsFloatArray"
    yield "```"
