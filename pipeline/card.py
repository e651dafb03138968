"""The model card of a delivery: README.md with front matter for the hub, numbers, and code that runs it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .card_gpu import ENGINE, bfloat16_section, engine_section
from .metrics import CAUSAL, ENCODER, SEQ2SEQ, metric_title
from .packaging import packaging_section
from .report import emulated
from .report.collect import PEFT
from .report.markdown import escape, table
from .units import show, show_bytes, show_count, show_delta, show_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .report.model import RunReport, SourceReport, TargetReport

PIPELINE_TAGS = {
    CAUSAL: "text-generation",
    ENCODER: "feature-extraction",
    SEQ2SEQ: "text2text-generation",
}
# The hub's name of the library that runs a format; packed checkpoints and engines have none here.
LIBRARIES = {
    "onnx": "onnxruntime",
    "aoti": "pytorch",
    "torchscript": "pytorch",
    "executorch": "executorch",
    PEFT: "peft",
}
TAGS = {"onnx": ("onnx", "onnxruntime"), "aoti": ("aotinductor",), PEFT: ("peft", "lora")}
AUTO_CLASSES = {CAUSAL: "AutoModelForCausalLM", SEQ2SEQ: "AutoModelForSeq2SeqLM"}
PAST = "past_key_values."
UNSTATED = "not stated; ask its authors before you share this"


def render_card(report: RunReport, target: TargetReport, session: Mapping[str, Any]) -> str:
    """The card. session: what `ingot.json` says of the artifact; empty for formats without one."""
    head, run = _front_matter(report, target), _run_section(report, target, session)
    return "\n".join([*head, *_body(report, target), *run]) + "\n"


def _front_matter(report: RunReport, target: TargetReport) -> Iterator[str]:
    """YAML whose strings are JSON strings, which YAML 1.2 reads as they are."""
    model = report.model
    yield "---"
    if model.license:
        yield f"license: {json.dumps(model.license)}"
    if model.uri.startswith("hf://"):
        yield f"base_model: {json.dumps(model.uri.removeprefix('hf://'))}"
        yield f"base_model_relation: {'adapter' if target.format == PEFT else 'quantized'}"
    yield f"pipeline_tag: {PIPELINE_TAGS.get(model.task, 'other')}"
    if target.format in LIBRARIES:
        yield f"library_name: {LIBRARIES[target.format]}"
    yield f"tags: [{', '.join((*TAGS.get(target.format, ()), 'ingot'))}]"
    yield "---"


def _body(report: RunReport, target: TargetReport) -> Iterator[str]:
    model = report.model
    yield f"# {escape(model.name)} for {escape(target.name)}"
    yield ""
    own = show_count(target.parameters or model.parameters)
    before = show_count(model.parameters)
    yield (
        f"{escape(model.architecture)} with {own} parameters{f' of {before}' if own != before else ''}, "
        f"{show_bytes(target.size_bytes)} in all, built by Ingot {escape(report.version)} "
        f"from {escape(model.uri)}{_revision(report)}. Gate: **{target.status}**."
    )
    yield ""
    if len(target.sources) > 1:
        yield "Made of:"
        yield ""
        yield from (f"- {_source(each)}" for each in target.sources)
    else:
        yield f"Licence of the source: {escape(model.license or UNSTATED)}."
    yield ""
    if target.widths:
        widths = (f"{escape(w.name)} {show_count(w.parameters)}" for w in target.widths)
        yield f"Weights by width: {', '.join(widths)}."
        yield ""
    yield from _metrics(target)
    if target.emulated:
        yield from table(emulated.HEAD, (emulated.cells(found) for found in target.emulated))
        yield ""
        yield emulated.NOTE
        yield ""
    if target.status == "unverified":
        yield "It is not measured to the end. `ingot validate .` in this directory does that where its device"
        yield "is, and writes what it finds to `verifications/`."
        yield ""
    yield (
        "[manifest.json](manifest.json) has the lineage and the digest of every file, "
        "[report.html](report.html) the whole report."
    )
    yield ""


def _source(source: SourceReport) -> str:
    revision = f" at revision `{escape(source.revision)}`" if source.revision else ""
    return f"{escape(source.uri)}{revision}; licence: {escape(source.license or UNSTATED)}"


def _revision(report: RunReport) -> str:
    return f" at revision `{escape(report.model.revision)}`" if report.model.revision else ""


def _metrics(target: TargetReport) -> Iterator[str]:
    if not target.metrics:
        return
    yield "| Metric | Reference | This artifact | Change | 90 % interval |"
    yield "|---|---:|---:|---:|---:|"
    for name, metric in target.metrics.items():
        is_exact = metric.low is not None and metric.low == metric.high
        interval = show_interval(metric.low, metric.high, metric.unit, metric.comparison)
        cells = (
            escape(metric_title(name)),
            show(metric.reference, metric.unit),
            show(metric.value, metric.unit),
            show_delta(metric.delta, metric.unit, metric.comparison),
            "exact" if is_exact else interval,
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _adapter_section(report: RunReport) -> Iterator[str]:
    """How PEFT puts an adapter beside its base."""
    auto = AUTO_CLASSES.get(report.model.task, "AutoModel")
    yield "## Run it"
    yield ""
    yield "It was measured folded into its base in float32; PEFT computes the same with the two side by side:"
    yield ""
    yield "```sh"
    yield "pip install peft transformers torch"
    yield "```"
    yield ""
    yield "```python"
    yield "from peft import PeftModel"
    yield f"from transformers import {auto}"
    yield ""
    yield f'base = {auto}.from_pretrained("the base that it was made for")'
    yield 'model = PeftModel.from_pretrained(base, ".")'
    yield "```"


def _run_section(report: RunReport, target: TargetReport, session: Mapping[str, Any]) -> Iterator[str]:
    if target.format == PEFT:
        yield from _adapter_section(report)
    if target.format == "aoti":
        yield from _program_section(session)
    yield from packaging_section(target.format, session)
    if target.format == ENGINE:
        yield from engine_section(session)
    if target.format != "onnx":
        return
    if session.get("dtype") == "bfloat16":
        yield from bfloat16_section()
        return
    wanted = target.requires.get("onnxruntime", "")
    yield "## Run it"
    yield ""
    yield "In this directory, with nothing of Ingot:"
    yield ""
    yield "```sh"
    yield f"pip install 'onnxruntime{wanted}' tokenizers numpy"
    yield "```"
    yield ""
    yield "```python"
    yield from run_code(session)
    yield "```"
    yield ""
    if "profiles" in session:
        yield 'On a GPU: `pip install onnxruntime-gpu`, `providers=["CUDAExecutionProvider"]`. TensorRT takes'
        yield "the graph with the shapes in `optimization_profiles.json`."
        yield ""
    yield "Builds of onnxruntime for Linux since 1.29 send telemetry to Microsoft, as those for Windows do;"
    yield "`ORT_DISABLE_TELEMETRY=1` in the environment keeps the former from it."


def _program_section(session: Mapping[str, Any]) -> Iterator[str]:
    """How programs of torch are run."""
    yield "## Run it"
    yield ""
    yield f"On a machine with {session.get('device', 'cuda')}, torch and Ingot, in this directory:"
    yield ""
    yield "```sh"
    yield 'ingot generate . "Once upon a time"'
    yield "```"
    if session.get("engine") == "aoti":
        yield ""
        yield "Its programs are compiled for the GPU and the torch of a machine: by `ingot validate .`, which"
        yield "keeps the packages beside them, or whenever they are opened."


def run_code(session: Mapping[str, Any]) -> Iterator[str]:
    """Python that runs the artifact with onnxruntime and tokenizers alone: greedy text, or hidden states."""
    yield "import json, numpy as np, onnxruntime as ort, tokenizers"
    yield 'about, tokenizer = json.load(open("ingot.json")), tokenizers.Tokenizer.from_file("tokenizer.json")'
    options = dict(session.get("session_options", {}))
    if options:
        yield "options = ort.SessionOptions()"
        for name, value in options.items():
            yield f"options.add_session_config_entry({json.dumps(name)}, {json.dumps(value)})"
    given = ", options" if options else ""
    if session.get("task") == SEQ2SEQ:
        yield from _pair(session, given)
        return
    yield f'session = ort.InferenceSession("model.onnx"{given})'
    inputs = tuple(str(name) for name in session.get("inputs", ()))
    half = str(session.get("dtype", "float32"))
    yield from _causal(inputs, half) if session.get("task") == CAUSAL else _encoder(inputs)


def _causal(inputs: tuple[str, ...], dtype: str) -> Iterator[str]:
    feed = ['"input_ids": [ids[done:]]']
    if "attention_mask" in inputs:
        feed.append('"attention_mask": [[1] * len(ids)]')
    if "position_ids" in inputs:
        feed.append('"position_ids": [[*range(done, len(ids))]]')
    yield 'ids, done = tokenizer.encode("Once upon a time").ids, 0'
    yield f'caches = [i for i in session.get_inputs() if i.name.startswith("{PAST}")]'
    yield f"past = {{i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.{dtype}) for i in caches}}"
    yield 'while len(ids) < 48 and ids[-1] not in about["eos_ids"]:'
    yield f"    feed = {{{', '.join(feed)}}}"
    yield "    feed = {name: np.array(value, np.int64) for name, value in feed.items()}"
    yield "    logits, *present = session.run(None, feed | past)"
    if any(name.startswith(PAST) for name in inputs):
        yield "    past, done = dict(zip(past, present)), len(ids)"
    yield "    ids.append(int(logits[0, -1].argmax()))"
    yield "print(tokenizer.decode(ids))"


def _pair(session: Mapping[str, Any], options: str) -> Iterator[str]:
    """Greedy text from a source."""
    first = () if session.get("first_id") is None else (session["first_id"],)
    files = '("encoder.onnx", "model.onnx")'
    dtype = str(session.get("dtype", "float32"))
    yield f"encoder, session = (ort.InferenceSession(name{options}) for name in {files})"
    yield 'source = np.array([tokenizer.encode("Once upon a time").ids], np.int64)'
    yield 'names, mask = about["encoder"]["outputs"][1:], np.ones_like(source)'
    yield 'read = encoder.run(names, {"input_ids": source, "attention_mask": mask})'
    yield 'read = dict(zip(names, read)) | {"encoder_attention_mask": mask}'
    yield f'caches = [i for i in session.get_inputs() if i.name.startswith("{PAST}")]'
    yield f"past = {{i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.{dtype}) for i in caches}}"
    yield f"ids, done = {[session.get('decoder_start_id'), *first]}, 0"
    yield 'while len(ids) < 48 and (done == 0 or ids[-1] not in about["eos_ids"]):'
    yield '    feed = read | past | {"input_ids": np.array([ids[done:]], np.int64)}'
    yield "    logits, *present = session.run(None, feed)"
    yield "    past, done = dict(zip(past, present)), len(ids)"
    yield "    ids.append(int(logits[0, -1].argmax()))"
    yield "print(tokenizer.decode(ids))"


def _encoder(inputs: tuple[str, ...]) -> Iterator[str]:
    feed = ['"input_ids": text.ids']
    if "attention_mask" in inputs:
        feed.append('"attention_mask": text.attention_mask')
    if "token_type_ids" in inputs:
        feed.append('"token_type_ids": text.type_ids')
    if "position_ids" in inputs:
        feed.append('"position_ids": [*range(len(text.ids))]')
    yield 'text = tokenizer.encode("Once upon a time")'
    yield f"feed = {{{', '.join(feed)}}}"
    yield "feed = {name: np.array([value], np.int64) for name, value in feed.items()}"
    yield "hidden = session.run(None, feed)[0]  # float32 [1, tokens, hidden]"
    yield "print(hidden.shape, hidden[0].mean(axis=0)[:4])"
