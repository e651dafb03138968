"""A model that can be worked out by hand, as an ONNX graph with every input and output of a real one.

Its next token is (the sum of all unmasked tokens so far + the position) mod the vocabulary: wrong masks,
positions or past values each change it. Keys hold the tokens; values hold the positions and are not used.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VOCABULARY = 11
CONTEXT = 24
EOS = 6
HEIGHT = 8.0
PAST, PRESENT = "past_key_values.0", "present.0"
DESCRIPTION: dict[str, Any] = {
    "schema": "ingot/session/v1",
    "format": "onnx",
    "task": "causal-lm",
    **dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "head_dim"), 1),
    "vocabulary": VOCABULARY,
    "context": CONTEXT,
    "bos_id": None,
    "eos_ids": [EOS],
    "pad_id": None,
    "past": "past_key_values.{layer}.{part}",
    "present": "present.{layer}.{part}",
    "requires": {"onnxruntime": ">=1.20"},
}


def write_toy(directory: Path, *, height: float = HEIGHT, **changes: object) -> Path:
    """Writes model.onnx and ingot.json; the likeliest token's logit is ``height``, all others' are 0."""
    import onnx
    from onnx import TensorProto, helper

    def constant(name: str, values: Sequence[float], kind: int = TensorProto.INT64) -> onnx.TensorProto:
        return helper.make_tensor(name, kind, [len(values)], values)

    def scalar(name: str, value: int) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [], [value])

    nodes = [
        ("Unsqueeze", ["input_ids", "axes"], "ids4"),
        ("Unsqueeze", ["position_ids", "axes"], "positions4"),
        ("Cast", ["ids4"], "new_key", {"to": TensorProto.FLOAT}),
        ("Cast", ["positions4"], "new_value", {"to": TensorProto.FLOAT}),
        ("Concat", [f"{PAST}.key", "new_key"], f"{PRESENT}.key", {"axis": 2}),
        ("Concat", [f"{PAST}.value", "new_value"], f"{PRESENT}.value", {"axis": 2}),
        ("Squeeze", [f"{PRESENT}.key", "axes"], "all_floats"),
        ("Cast", ["all_floats"], "all_ids", {"to": TensorProto.INT64}),
        ("Mul", ["all_ids", "attention_mask"], "seen"),
        ("CumSum", ["seen", "one"], "sums"),
        ("Shape", ["input_ids"], "new", {"start": 1, "end": 2}),
        ("Neg", ["new"], "from_end"),
        ("Slice", ["sums", "from_end", "end", "axis"], "new_sums"),
        ("Add", ["new_sums", "position_ids"], "total"),
        ("Mod", ["total", "vocabulary"], "next"),
        ("OneHot", ["next", "vocabulary", "heights"], "logits"),
    ]
    cache = ["batch", 1, "past", 1]
    whole = ["batch", 1, "total", 1]
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **(rest[0] if rest else {})) for op, ins, out, *rest in nodes],
        "toy",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]),
            helper.make_tensor_value_info(f"{PAST}.key", TensorProto.FLOAT, cache),
            helper.make_tensor_value_info(f"{PAST}.value", TensorProto.FLOAT, cache),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY]),
            helper.make_tensor_value_info(f"{PRESENT}.key", TensorProto.FLOAT, whole),
            helper.make_tensor_value_info(f"{PRESENT}.value", TensorProto.FLOAT, whole),
        ],
        [
            constant("axes", [1, 3]),
            constant("axis", [1]),
            scalar("one", 1),
            constant("end", [2**62]),
            scalar("vocabulary", VOCABULARY),
            constant("heights", [0.0, height], TensorProto.FLOAT),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(model, directory / "model.onnx")
    (directory / "ingot.json").write_text(json.dumps({**DESCRIPTION, **changes}))
    return directory


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """What the toy says after a prompt, greedily: worked out without any graph; ends before EOS."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        following = (sum(tokens) + len(tokens) - 1) % VOCABULARY
        if following == EOS:
            break
        tokens.append(following)
    return tokens[len(prompt) :]
