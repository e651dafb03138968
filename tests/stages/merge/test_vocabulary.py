"""Whose tokens a merge has, on vocabularies small enough to write down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ingot.artifacts.errors import InputError
from ingot.artifacts.yaml import parse_yaml
from ingot.stages.merge.build import Prepared, prepare
from ingot.stages.merge.config import read
from ingot.stages.merge.method import get
from ingot.stages.merge.models import open_models
from ingot.stages.merge.references import Inputs
from ingot.stages.model.checkpoint import Checkpoint
from safetensors.numpy import load_file

from .networks import HIDDEN, config, save, shapes, tokenizer, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = {
    "a": ({"<unk>": 0, "hay": 1, "bee": 2, "cat": 3}, {"<unk>": {}}),
    "b": ({"<unk>": 0, "bee": 1, "dog": 2, "<x>": 3}, {"<unk>": {}, "<x>": {"lstrip": True}}),
    "c": ({"<unk>": 0, "dog": 1, "bee": 2, "elk": 3, "cat": 4}, {"<unk>": {}}),
}
MODELS = "models: [{model: a}, {model: b}]\nparameters: {weight: 1}\nmerge_method: linear\n"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The models a, b and c, with the tokens above and a row for each; b is stored in float16."""
    for seed, (name, (tokens, added)) in enumerate(WORDS.items()):
        rows = len(tokens)
        settings = config(1, vocab_size=rows, bos_token_id=0, eos_token_id=rows - 1)
        weights = values(shapes(1, vocabulary=rows), seed)
        if name == "b":
            weights = {key: value.astype(np.float16) for key, value in weights.items()}
        save(tmp_path / name, settings, weights, tokenizer(tokens, added))
    return tmp_path


def prepared(text: str, folder: Path) -> Prepared:
    inputs = Inputs(folder)
    recipe = read(parse_yaml(text, "merge.yaml"), inputs)
    opened = {name: Checkpoint.open(folder / inputs.sources[name].name) for name in recipe.inputs()}
    return prepare(recipe, get(recipe.method), open_models(opened, inputs.written(), recipe.donor))


def ids(made: Prepared) -> list[str]:
    assert made.words is not None
    return sorted(made.words.tokens.ids, key=made.words.tokens.ids.__getitem__)


def rows(made: Prepared, name: str = EMBEDDING) -> list[Any]:
    """What each input of a task reads, float32."""
    import torch

    task = next(task for task in made.plan.tasks if task.output.name == name)
    found = []
    for each in task.inputs:
        out = torch.empty(task.output.count)
        # In pieces that do not end at rows.
        for start in range(0, len(out), 5):
            each.operand.read(start, min(start + 5, len(out)), out[start : start + 5])
        found.append(out.numpy().reshape(task.output.shape))
    return found


def weights(folder: Path, *names: str, tensor: str = EMBEDDING) -> list[Any]:
    return [load_file(folder / name / "model.safetensors")[tensor].astype(np.float32) for name in names]


def test_a_union_keeps_the_first_models_ids_and_adds_what_others_have(folder: Path) -> None:
    made = prepared(f"{MODELS}tokenizer_source: union\n", folder)
    assert ids(made) == ["<unk>", "hay", "bee", "cat", "dog", "<x>"]
    assert made.words is not None
    added = {entry["content"]: entry for entry in made.words.tokens.file["added_tokens"]}
    assert added["<x>"] == {
        "id": 5, "content": "<x>", "special": True, "lstrip": True, "rstrip": False, "normalized": False,
        "single_word": False,
    }  # fmt: skip
    assert (added["dog"]["id"], added["dog"]["special"], added["dog"]["normalized"]) == (4, False, True)
    assert made.config["vocab_size"] == 6
    assert any("2 tokens of b are beside those of a" in note for note in made.notes)


@pytest.mark.parametrize("tensor", [EMBEDDING, HEAD])
def test_a_token_that_one_model_has_takes_its_row_in_all(tensor: str, folder: Path) -> None:
    first, second = rows(prepared(f"{MODELS}tokenizer_source: union\n", folder), tensor)
    a, b = weights(folder, "a", "b", tensor=tensor)
    # <unk> hay bee cat dog <x>
    assert np.array_equal(first, [a[0], a[1], a[2], a[3], b[2], b[3]])
    assert np.array_equal(second, [b[0], a[1], b[1], a[3], b[2], b[3]])


def test_where_several_have_a_token_the_base_gives_it_else_their_mean(folder: Path) -> None:
    three = "models: [{model: a}, {model: b}, {model: c}]\nparameters: {weight: 1}\nmerge_method: linear\n"
    a, b, c = weights(folder, "a", "b", "c")
    made = prepared(f"{three}tokenizer_source: c\n", folder)
    assert ids(made) == ["<unk>", "dog", "bee", "elk", "cat"]
    first, second, third = rows(made)
    assert np.allclose(first, [a[0], (b[2] + c[1]) / 2, a[2], c[3], a[3]], atol=1e-7)
    assert np.allclose(second, [b[0], b[2], b[1], c[3], (a[3] + c[4]) / 2], atol=1e-7)
    assert np.array_equal(third, c)
    based = rows(prepared(f"{three}base_model: c\ntokenizer_source: base\n", folder))
    assert np.array_equal(based[0], [a[0], c[1], a[2], c[3], a[3]])


def test_rules_say_where_a_token_comes_from(folder: Path) -> None:
    tokens = (
        "{hay: {source: {kind: zero}}, new: {source: {kind: model_token, model: a, token: cat}}, "
        "dog: {source: {kind: model_token, model: b, token_id: 0}}, bee: {source: b, force: true}}"
    )
    made = prepared(
        f"{MODELS}tokenizer: {{source: union, tokens: {tokens}, pad_to_multiple_of: 4}}\n", folder
    )
    assert ids(made) == ["<unk>", "hay", "bee", "cat", "dog", "<x>", "new"]
    assert made.config["vocab_size"] == 8
    a, b = weights(folder, "a", "b")
    zero = np.zeros(HIDDEN)
    first, second = rows(made)
    assert np.array_equal(first, [a[0], a[1], b[1], a[3], b[0], b[3], a[3], zero])
    assert np.array_equal(second, [b[0], zero, b[1], a[3], b[2], b[3], a[3], zero])


def test_ids_of_special_tokens_are_those_of_the_tokenizer_that_is_taken(folder: Path) -> None:
    assert prepared(f"{MODELS}tokenizer_source: union\n", folder).config["eos_token_id"] == 3
    text = "models: [{model: a}, {model: c}]\nparameters: {weight: 1}\nmerge_method: linear\n"
    assert prepared(f"{text}tokenizer_source: c\n", folder).config["eos_token_id"] == 4


def test_rows_that_no_token_has_are_cut_and_that_is_said(folder: Path) -> None:
    tokens, added = WORDS["a"]
    for name in "ab":
        settings = config(1, vocab_size=16)
        save(folder / name, settings, values(shapes(1, vocabulary=16), 1), tokenizer(tokens, added))
    made = prepared(f"{MODELS}tokenizer_source: base\n", folder)
    assert made.config["vocab_size"] == 4
    assert any("has 4 rows" in note and "had 16" in note for note in made.notes)
    # Where nobody chooses a tokenizer, nothing is cut.
    assert prepared(MODELS, folder).config["vocab_size"] == 16


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("tokenizer: {tokens: {bee: {source: {kind: model_token, model: a, token: emu}}}}",
         "a has no token 'emu', which tokenizer.tokens.bee takes from it"),
        ("tokenizer: {tokens: {bee: {source: {kind: model_token, model: a, token_id: 4}}}}",
         "a has no token 4, which tokenizer.tokens.bee asks for"),
        ("tokenizer: {tokens: {dog: {source: a, force: true}}}",
         "a has no token 'dog', which tokenizer.tokens.dog takes from it"),
    ],
)  # fmt: skip
def test_a_token_that_its_model_does_not_have_is_refused(text: str, what: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        prepared(f"{MODELS}{text}\n", folder)
    assert what in caught.value.what


def same_size(folder: Path, tokens: Sequence[str]) -> None:
    for name, words in (("a", ["<unk>", "hay", "bee"]), ("b", tokens)):
        numbered: Mapping[str, int] = {word: number for number, word in enumerate(words)}
        save(folder / name, config(1, vocab_size=4), values(shapes(1, vocabulary=4), 1), tokenizer(numbered))


def test_tokenizers_that_give_an_id_to_two_words_are_refused_where_none_is_chosen(tmp_path: Path) -> None:
    same_size(tmp_path, ["<unk>", "bee", "hay"])
    with pytest.raises(InputError, match="b calls token 1 'bee', which is 'hay' in a") as caught:
        prepared(MODELS, tmp_path)
    assert "tokenizer_source: union" in str(caught.value.fix)


def test_tokens_beside_the_outputs_own_are_noted(tmp_path: Path) -> None:
    same_size(tmp_path, ["<unk>", "hay", "bee", "<|im_start|>"])
    assert "b has 1 tokens, such as '<|im_start|>'" in prepared(MODELS, tmp_path).notes[0]


def test_a_union_of_vocabularies_is_a_checkpoint_that_transformers_loads(
    folder: Path, run_stage: Any
) -> None:
    import torch
    import transformers

    template = "{{ messages[0]['content'] }}"
    for name in "ab":
        (folder / name / "tokenizer_config.json").write_text(
            json.dumps(
                {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "chat_template": "x"}
            )
        )
    made = run_stage(
        "merge.linear",
        {"model1": folder / "a", "model2": folder / "b"},
        models=[{"model": "model1", "weight": 1.0}, {"model": "model2", "weight": 3.0}],
        tokenizer={"source": "union", "pad_to_multiple_of": 8},
        chat_template=template,
    )
    words = transformers.AutoTokenizer.from_pretrained(made.path)
    assert words("dog bee <x> hay")["input_ids"] == [4, 2, 5, 1]
    assert words.chat_template == template
    model = transformers.AutoModelForCausalLM.from_pretrained(made.path)
    assert model.get_input_embeddings().weight.shape == (8, HIDDEN)
    a, b = weights(folder, "a", "b")
    found = model.get_input_embeddings().weight.detach().numpy()
    expected = [(a[0] + 3 * b[0]) / 4, a[1], (a[2] + 3 * b[1]) / 4, a[3], b[2], b[3]]
    assert np.abs(found[:6] - expected).max() < 1e-6
    assert not found[6:].any()
    assert torch.isfinite(model(torch.tensor([[4, 2, 5, 1]])).logits).all()
    assert made.facts["vocabulary"] == 8
