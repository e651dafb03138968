"""Which graphs an architecture becomes, by the name of their file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import seq2seq
from .networks import decoder, encoder

if TYPE_CHECKING:
    from ...model.families import Architecture
    from .graph import Graph
    from .linear import Form
    from .weights import Weights

MODEL_FILE = "model.onnx"
ENCODER_FILE = "encoder.onnx"


def build(architecture: Architecture, weights: Weights, form: Form) -> dict[str, Graph]:
    """The graphs of an architecture: one, or for a `seq2seq-lm` one that reads and one that writes."""
    if architecture.task == "seq2seq-lm":
        return {
            ENCODER_FILE: seq2seq.source_graph(architecture, weights, form),
            MODEL_FILE: seq2seq.target_graph(architecture, weights, form),
        }
    make = decoder if architecture.task == "causal-lm" else encoder
    return {MODEL_FILE: make(architecture, weights, form)}
