"""ONNX files before they are opened: sound ones pass, whoever wrote them, and damage goes no further.

What hostile files do is in tests/hostile.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.artifacts.errors import InputError
from ingot.targets.runtimes import onnx as runtime
from ingot.targets.runtimes import onnx_about, protobuf
from ingot.targets.runtimes.onnx_file import ELEMENT_BITS, KNOWN_DOMAINS, check_onnx_file
from onnx import TensorProto, helper, numpy_helper

from .toy import write_toy


def branch(name: str) -> onnx.GraphProto:
    """A branch of an If that takes a value of the graph around it."""
    node = helper.make_node("Mul", ["x", "scale"], [name])
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])


def model() -> onnx.ModelProto:
    """x * scale + weights, the product in both branches of an If; tensors as initializers and attributes."""
    weights = numpy_helper.from_array(np.arange(2000, dtype=np.float32).reshape(1000, 2), "weights")
    scale = numpy_helper.from_array(np.ones(2, np.float32), "scale")
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["zero"], value=zero),
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "zero"], ["is"]),
            helper.make_node("Squeeze", ["is"], ["flag"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
            helper.make_node("Add", ["y", "weights"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1000, 2])],
        [scale, weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


@pytest.mark.parametrize("external", [True, False])
def test_a_graph_with_branches_and_attributes_that_the_library_wrote_passes(tmp_path, external):
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=external, location="w.data", size_threshold=1024)
    assert (tmp_path / "w.data").exists() == external
    check_onnx_file(path)


def test_a_tensor_of_every_element_type_takes_the_bytes_that_numpy_gives_it(tmp_path):
    for dtype, bits in ELEMENT_BITS.items():
        if dtype > 24:
            continue  # two-bit integers: helper writes them since another release
        tensor = helper.make_tensor("t", dtype, [3, 5], [1] * 15)
        raw = numpy_helper.to_array(tensor).tobytes() if bits >= 8 else bytes(-(-15 * bits // 8))
        packed = TensorProto(name="t", data_type=dtype, dims=[3, 5], raw_data=raw)
        graph = helper.make_graph([], "g", [], [], [packed])
        onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "m.onnx")
        check_onnx_file(tmp_path / "m.onnx")
        packed.raw_data = raw[:-1]
        short = helper.make_graph([], "g", [], [], [packed])
        onnx.save(helper.make_model(short, ir_version=10), tmp_path / "m.onnx")
        with pytest.raises(InputError, match="but its shape takes"):
            check_onnx_file(tmp_path / "m.onnx")


def test_the_domains_that_pass_are_those_with_kernels_in_onnxruntime():
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    brought = {schema.domain for schema in state.get_all_operator_schema()}
    assert set(KNOWN_DOMAINS) - {"ai.onnx"} <= brought


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 255), st.binary(max_size=30))
def test_any_damage_is_an_input_error_or_a_file_that_is_read_to_its_end(tmp_path, position, value, junk):
    path = tmp_path / "model.onnx"
    whole = model().SerializeToString()
    position %= len(whole)
    for content in (
        whole[:position] + bytes([value]) + whole[position + 1 :],
        whole[:position],
        whole[:position] + junk + whole[position:],
        junk,
    ):
        path.write_bytes(content)
        try:
            check_onnx_file(path)
        except InputError as error:
            assert error.where == str(path)  # noqa: PT017 - most damage is refused, some is not


def test_a_file_of_countless_fields_is_refused_before_they_are_all_read(tmp_path, monkeypatch):
    monkeypatch.setattr(protobuf, "MOST_FIELDS", 1000)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x01" * 1001)
    with pytest.raises(InputError, match="more than 1,000 fields"):
        check_onnx_file(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": "2"}, "layers is '2'"),
        ({"layers": 10**9}, "layers is '1000000000'"),
        ({"kv_heads": -1}, "kv_heads is '-1'"),
        ({"vocabulary": None}, "vocabulary is 'None'"),
        ({"past": "{layer:>9999999999}{part}"}, "past is"),
        ({"past": "{layer.__class__}{part}"}, "past is"),
        ({"present": "no layer"}, "present is"),
        ({"eos_ids": [1.5]}, "eos_ids is"),
        ({"eos_ids": 7}, "eos_ids is '7'"),
        ({"bos_id": "<s>"}, "bos_id is"),
        ({"session_options": {"session.model_external_initializers_file_folder_path": "/"}}, "options is"),
        ({"session_options": {"session.x64quantprecision": 1}}, "session_options is"),
        ({"requires": "onnxruntime"}, "requires is"),
        ({"task": "seq2seq-lm", "cross": "{layer}{part}", "encoder": {"file": "../x.onnx"}}, "encoder is"),
        ({"logits_from": {}}, "logits_from is"),
        ({"task": {}}, "a session runs models of the tasks"),
    ],
)  # fmt: skip
def test_a_description_that_says_what_cannot_be_is_refused_before_anything_is_opened(
    tmp_path, changes, message
):
    directory = write_toy(tmp_path / "toy", **changes)
    with pytest.raises(InputError) as caught:
        runtime.open(directory)
    assert message in caught.value.what
    assert caught.value.where == str(directory / "ingot.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"[]", "is not a JSON object"), (b" " * ((1 << 20) + 1), "more than 1,048,576")],
)
def test_a_description_that_is_no_small_object_is_refused(tmp_path, content, message):
    (write_toy(tmp_path / "toy") / onnx_about.DESCRIPTION).write_bytes(content)
    with pytest.raises(InputError, match=message):
        runtime.open(tmp_path / "toy")
