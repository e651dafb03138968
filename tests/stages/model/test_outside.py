"""Models outside the table: what their configs say of them is what transformers makes of them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from ingot.artifacts.errors import IntakeError, RequirementError
from ingot.stages.load.intake import inspect_source
from ingot.stages.model.checkpoint import Checkpoint
from ingot.stages.model.families import Outline, architecture, names, outline, outside
from safetensors.numpy import load_file

from ...conftest import CONTEXT, FAMILIES, OUTSIDE, OUTSIDE_ENCODERS, OUTSIDE_PAIRS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Changed = "Callable[..., Path]"


@pytest.fixture
def changed(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Changed:
    """A copy of a tiny checkpoint: ``(family, without=(), **config) -> directory``."""

    def make(family: str, without: tuple[str, ...] = (), **config: object) -> Path:
        directory = tmp_path / family
        shutil.copytree(tiny_checkpoint(family), directory)
        found = json.loads((directory / "config.json").read_text()) | config
        kept = {key: value for key, value in found.items() if key not in without}
        (directory / "config.json").write_text(json.dumps(kept))
        return directory

    return make


@pytest.mark.parametrize("family", OUTSIDE)
def test_an_outline_is_that_of_the_model_in_transformers(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    import transformers

    directory = tiny_checkpoint(family)
    config = transformers.AutoConfig.from_pretrained(directory)
    task = (
        "encoder" if family in OUTSIDE_ENCODERS else "seq2seq-lm" if family in OUTSIDE_PAIRS else "causal-lm"
    )
    classes = {
        "encoder": transformers.AutoModel,
        "causal-lm": transformers.AutoModelForCausalLM,
        "seq2seq-lm": transformers.AutoModelForSeq2SeqLM,
    }
    model = classes[task].from_pretrained(directory)
    found = Checkpoint.open(directory).outline
    assert (found.model_type, found.task, found.is_known) == (config.model_type, task, False)
    assert found.hidden == config.hidden_size
    assert found.vocabulary == model.get_input_embeddings().num_embeddings
    assert found.context == CONTEXT
    layers = config.decoder_layers if task == "seq2seq-lm" else config.num_hidden_layers
    assert found.layers == layers
    if task == "seq2seq-lm":
        assert (found.source_context, found.decoder_start) == (CONTEXT, config.decoder_start_token_id)


@pytest.mark.parametrize("family", ["gptj", "electra", "marian"])
def test_intake_takes_them_and_counts_what_is_stored(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    directory = tiny_checkpoint(family)
    facts = inspect_source(directory)
    stored = load_file(directory / "model.safetensors")
    assert facts.parameters == sum(tensor.size for tensor in stored.values())
    assert (facts.dtype, facts.known_family, facts.architecture) == ("float32", False, OUTSIDE[family][0])
    assert "known_family" not in facts.identity()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_family_has_the_outline_of_its_architecture(
    family: str, tiny_checkpoint: Callable[..., Path]
) -> None:
    opened = Checkpoint.open(tiny_checkpoint(family))
    assert opened.outline == Outline.of(opened.architecture)
    assert opened.outline.is_known


def test_the_classes_read_as_text_are_those_that_transformers_has() -> None:
    from transformers.models.auto import modeling_auto

    for table, found in outside.transformers_classes().items():
        entries = getattr(modeling_auto, table).items()
        assert found == {key: (name,) if isinstance(name, str) else name for key, name in entries}


def test_tables_of_another_form_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "CLASSES_FILE", ("__init__.py",))
    with pytest.raises(RequirementError, match="does not list its models as expected"):
        outside.transformers_classes.__wrapped__()


def test_a_name_that_nobody_has_is_refused_with_the_nearest(changed: Changed) -> None:
    with pytest.raises(IntakeError, match="'falcom' is not a known architecture") as caught:
        inspect_source(changed("falcon", model_type="falcom"))
    assert caught.value.fix is not None
    assert "transformers that is installed" in caught.value.fix
    assert all(name in caught.value.fix for name in names())


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        (
            "electra",
            {"architectures": ["ElectraForSequenceClassification"]},
            "architectures: .* names none of",
        ),
        ("gptj", {"architectures": None}, "architectures: None names none of .*GPTJForCausalLM"),
        ("gptj", {"n_layer": "two"}, "n_layer: 'two' is not a whole number"),
        ("gptj", {"vocab_size": None}, "vocab_size is missing"),
        ("marian", {"is_encoder_decoder": False}, "is_encoder_decoder: False does not go with"),
        ("marian", {"architectures": ["MarianModel"]}, "is_encoder_decoder: True does not go with"),
        ("gptj", {"auto_map": {"AutoModel": "theirs.Model"}}, "auto_map"),
        ("gptj", {"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
    ],
)
def test_a_config_that_does_not_do_is_refused(
    changed: Changed, family: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(IntakeError, match=message):
        inspect_source(changed(family, **config))


def test_the_trained_heads_of_encoders_stay_behind(changed: Changed) -> None:
    for name in ("ElectraForMaskedLM", "ElectraForPreTraining", "ElectraModel"):
        directory = changed("electra", architectures=[name])
        assert Checkpoint.open(directory).outline.task == "encoder"
        shutil.rmtree(directory)


def test_the_tokenizer_may_say_a_shorter_context_and_the_only_one(changed: Changed) -> None:
    directory = changed("bloom", without=("seq_length",))
    settings = directory / "tokenizer_config.json"
    told = json.loads(settings.read_text())
    assert Checkpoint.open(directory).outline.context == told["model_max_length"] == CONTEXT
    settings.write_text(json.dumps({**told, "model_max_length": 10**30}))
    with pytest.raises(IntakeError, match="the longest sequence is not given") as caught:
        _ = Checkpoint.open(directory).outline
    assert "add max_position_embeddings" in str(caught.value.fix)
    shutil.rmtree(directory)
    offset = changed("electra", max_position_embeddings=CONTEXT + 2)
    assert Checkpoint.open(offset).outline.context == CONTEXT


def test_whoever_needs_the_layers_is_told_that_the_table_does_not_hold_them(
    tiny_checkpoint: Callable[..., Path],
) -> None:
    with pytest.raises(IntakeError, match="'gptj' is not a known architecture"):
        _ = Checkpoint.open(tiny_checkpoint("gptj")).architecture
    config = {"model_type": "gptj"}
    with pytest.raises(IntakeError):
        architecture(config, "config.json")
    with pytest.raises(IntakeError, match="architectures"):
        outline(config, "config.json")


def test_weights_without_a_single_float_are_refused(changed: Changed) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    directory = changed("gptj")
    save_file({"transformer.wte.weight": np.zeros((4, 4), np.int8)}, directory / "model.safetensors")
    with pytest.raises(IntakeError, match="no tensor is floating-point"):
        inspect_source(directory)
