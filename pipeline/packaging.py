"""How an artifact for phones gets into an app: the runtime, its version, and lines that load and run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

EXECUTORCH, TORCHSCRIPT, ORT = "executorch", "torchscript", ".ort"


def packaging_section(form: str, session: Mapping[str, Any]) -> Iterator[str]:
    """Markdown for the model card of a delivery for phones; nothing for others. session: what `ingot.json`
    says.
    """
    is_ort = str(session.get("file", "")).endswith(ORT)
    if form not in (EXECUTORCH, TORCHSCRIPT) and not is_ort:
        return
    is_causal = session.get("task") == "causal-lm"
    keeps_past = form == EXECUTORCH and is_causal
    yield "## Put it into an app"
    yield ""
    if is_ort:
        yield from _onnxruntime(session)
        return
    wanted = str(session.get("requires", {}).get("executorch", ""))
    yield from _executorch(wanted, keeps_past) if form == EXECUTORCH else _torchscript()
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


def _onnxruntime(session: Mapping[str, Any]) -> Iterator[str]:
    """Apps load model.ort; what the full packages open is model.onnx."""
    wanted = str(session.get("requires", {}).get("onnxruntime", ""))
    yield f"Android: `com.microsoft.onnxruntime:onnxruntime-android` {wanted}. iOS: the Swift package"
    yield f"`onnxruntime` {wanted} (`onnxruntime-swift-package-manager`). Both open `model.ort`, and"
    yield "`model.onnx` too. A build of onnxruntime with `--minimal_build` and `--include_ops_by_config"
    yield "required_operators.config` opens `model.ort` alone, and is a fraction of the size."
    yield ""
    names = [str(name) for name in session.get("inputs", ())]
    caches = [name for name in names if name.startswith("past_key_values.")]
    if session.get("task") == "seq2seq-lm":
        yield "`encoder.ort` reads the source once, and `model.ort` writes the target; the names of inputs"
        yield "and outputs are in `ingot.json`."
        return
    fills = {"attention_mask": "1", "position_ids": "it", "token_type_ids": "0"}
    yield "```kotlin"
    yield "val environment = OrtEnvironment.getEnvironment()"
    yield 'val session = environment.createSession("${context.filesDir}/model.ort")'
    yield "val shape = longArrayOf(1, tokens.size.toLong())"
    yield "fun tensor(ids: LongArray) ="
    yield "    OnnxTensor.createTensor(environment, LongBuffer.wrap(ids), shape)"
    yield 'val feeds = mutableMapOf("input_ids" to tensor(tokens))'
    for name, value in fills.items():
        if name in names:
            yield f'feeds["{name}"] = tensor(LongArray(tokens.size) {{ {_kotlin_long(value)} }})'
    if caches:
        empty = f"longArrayOf(1, {session.get('kv_heads')}, 0, {session.get('head_dim')})"
        yield f"val empty = OnnxTensor.createTensor(environment, FloatBuffer.allocate(0), {empty})"
        yield 'session.inputNames.filter { it.startsWith("past") }.forEach { feeds[it] = empty }'
    yield "val values = (session.run(feeds)[0] as OnnxTensor).floatBuffer"
    yield "```"
    yield ""
    yield "```swift"
    yield "import OnnxRuntimeBindings"
    yield "let environment = try ORTEnv(loggingLevel: .warning)"
    yield 'let path = Bundle.main.path(forResource: "model", ofType: "ort")!'
    yield "let session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)"
    yield "func tensor(_ ids: [Int64]) throws -> ORTValue {"
    yield "  let data = NSMutableData(bytes: ids, length: ids.count * 8)"
    yield "  let shape: [NSNumber] = [1, NSNumber(value: ids.count)]"
    yield "  return try ORTValue(tensorData: data, elementType: .int64, shape: shape)"
    yield "}"
    yield 'var feeds = ["input_ids": try tensor(tokens)]'
    for name, value in fills.items():
        if name in names:
            yield f'feeds["{name}"] = try tensor(tokens.indices.map {{ {_swift_long(value)} }})'
    if caches:
        shape = f"[1, {session.get('kv_heads')}, 0, {session.get('head_dim')}]"
        yield f"let empty = try ORTValue(tensorData: NSMutableData(), elementType: .float, shape: {shape})"
        yield 'for name in try session.inputNames() where name.hasPrefix("past") { feeds[name] = empty }'
    output = next(iter(session.get("outputs", ())), "logits")
    yield f'let output = try session.run(withInputs: feeds, outputNames: ["{output}"], runOptions: nil)'
    yield f'let values = try output["{output}"]!.tensorData() as Data'
    yield "```"
    if caches:
        yield ""
        yield "The outputs `present.N.key` and `.value` are the `past_key_values` of the next call, whose"
        yield "`attention_mask` covers them too and whose `position_ids` go on behind them."


def _kotlin_long(value: str) -> str:
    return "it.toLong()" if value == "it" else value


def _swift_long(value: str) -> str:
    return "Int64($0)" if value == "it" else f"_ in {value}"


def _torchscript() -> Iterator[str]:
    yield "The lite interpreter is no longer developed; new apps load the `.pte` of `export.executorch`."
    yield "Android: `org.pytorch:pytorch_android_lite`. iOS: the pod `LibTorch-Lite`, whose C++ Swift calls"
    yield "through Objective-C++, in a class that the bridging header names:"
    yield ""
    yield "```kotlin"
    yield 'val module = LiteModuleLoader.load("${context.filesDir}/model.ptl")'
    yield "val ids = Tensor.fromBlob(tokens, longArrayOf(1, tokens.size.toLong()))"
    yield "val values = module.forward(IValue.from(ids)).toTensor().dataAsFloatArray"
    yield "```"
    yield ""
    yield "```objc"
    yield "#import <LibTorch-Lite/LibTorch-Lite.h>"
    yield "@implementation Program { torch::jit::mobile::Module module; }"
    yield "- (id)initWithPath:(NSString *)path {"
    yield "  if ((self = [super init])) module = torch::jit::_load_for_mobile(path.UTF8String);"
    yield "  return self;"
    yield "}"
    yield "- (NSData *)run:(NSData *)tokens {"
    yield "  c10::InferenceMode guard;"
    yield "  long count = tokens.length / 8;"
    yield "  at::Tensor ids = torch::from_blob((void *)tokens.bytes, {1, count}, at::kLong);"
    yield "  at::Tensor values = module.forward({ids}).toTensor().contiguous();"
    yield "  return [NSData dataWithBytes:values.data_ptr() length:values.nbytes()];"
    yield "}"
    yield "@end"
    yield "```"
    yield ""
    yield "```swift"
    yield 'let program = Program(path: Bundle.main.path(forResource: "model", ofType: "ptl")!)!'
    yield "let data = tokens.withUnsafeBytes { Data($0) }  // tokens: [Int64]"
    yield "let values = program.run(data)!.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }"
    yield "```"
