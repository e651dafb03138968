"""The bundled model and texts: sizes, licences, that they belong together and that the model is trained."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingot
import pytest
from ingot.pipeline.demo.make_data import beginning
from ingot.pipeline.demo.train_model import articles, batches, learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(ingot.__file__).parent / "pipeline" / "demo"
MODEL = DEMO / "wikitext-llama-4m"
DATA = DEMO / "data"


def header() -> dict[str, Any]:
    with (MODEL / "model.safetensors").open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        tensors: dict[str, Any] = json.loads(stream.read(length))
    tensors.pop("__metadata__", None)
    return tensors


def config() -> dict[str, Any]:
    stated: dict[str, Any] = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    return stated


def documents(name: str) -> list[str]:
    return [json.loads(line)["text"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def long_paragraphs(document: str) -> list[str]:
    return [paragraph for paragraph in document.split("\n") if len(paragraph) > 100]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine cost far more than a model this small gains."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_model_is_at_most_ten_megabytes_of_bf16_with_two_to_five_million_parameters() -> None:
    tensors = header()
    parameters = 0
    for tensor in tensors.values():
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        parameters += count
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert 2_000_000 <= parameters <= 5_000_000
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000


def test_the_tokenizer_has_as_many_entries_as_the_embedding_has_rows() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    rows, width = header()["model.embed_tokens.weight"]["shape"]
    assert tokenizer.get_vocab_size() == rows == config()["vocab_size"]
    assert width == config()["hidden_size"]


def test_the_special_tokens_have_the_identifiers_that_the_configuration_states() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    stated = config()
    assert tokenizer.token_to_id("<s>") == stated["bos_token_id"]
    assert tokenizer.token_to_id("</s>") == stated["eos_token_id"]
    assert tokenizer.token_to_id("<pad>") == stated["pad_token_id"]
    assert tokenizer.encode("The castle").ids[0] == stated["bos_token_id"]


def test_the_tokenizer_gives_back_every_bundled_text_and_any_other_unchanged() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for text in [*documents("evaluation.jsonl"), *documents("calibration.jsonl"), "naïve — 日本語\t🜚"]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_evaluation_and_calibration_share_no_document() -> None:
    evaluation, calibration = documents("evaluation.jsonl"), documents("calibration.jsonl")
    assert len(evaluation) >= 40
    assert len(set(evaluation)) == len(evaluation)
    assert not {paragraph for text in evaluation for paragraph in long_paragraphs(text)} & {
        paragraph for text in calibration for paragraph in long_paragraphs(text)
    }
    assert not set(evaluation) & set(calibration)


@pytest.mark.parametrize("name", ["evaluation.jsonl", "calibration.jsonl"])
def test_each_text_has_about_64_thousand_tokens(name: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in documents(name))
    assert 60_000 <= tokens <= 68_000


@pytest.mark.parametrize(
    "path", [MODEL / "LICENSE", DATA / "LICENSE", DATA / "SOURCE.txt", MODEL / "README.md"]
)
def test_model_and_data_carry_the_licence_of_their_text(path: Path) -> None:
    assert "CC BY-SA 4.0" in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("one_thread")
def test_the_model_predicts_far_better_than_token_frequencies_and_worse_at_two_bits() -> None:
    import torch
    from ingot.pipeline.demo.measure_model import perplexity, unigram_perplexity, with_rounded_linears
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    windows = [tokenizer.encode(text).ids[:256] for text in documents("evaluation.jsonl")[:24]]
    model = LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    value = perplexity(model, windows)
    assert value < unigram_perplexity(windows) / 3
    assert perplexity(with_rounded_linears(model, 2), windows) > 1.2 * value


def test_the_frequencies_of_equally_frequent_tokens_have_as_much_perplexity_as_there_are_tokens() -> None:
    from ingot.pipeline.demo.measure_model import unigram_perplexity

    assert unigram_perplexity([[9, 1, 2, 3, 4], [9, 4, 3, 2, 1]]) == pytest.approx(4.0)


def test_rounding_to_two_bits_moves_a_weight_to_the_nearest_of_four_levels() -> None:
    import torch
    from ingot.pipeline.demo.measure_model import rounded

    weight = torch.tensor([[0.0, 0.4, 0.6, 3.0], [-3.0, -1.4, -1.6, 0.0]])
    assert rounded(weight, 2).tolist() == [[0.0, 0.0, 1.0, 3.0], [-3.0, -1.0, -2.0, 0.0]]


def test_an_article_begins_at_a_title_between_blank_lines_and_nowhere_else() -> None:
    first = " \n = First = \n \n One . \n = x + y = \n \n = = Part = = \n \n Two . \n \n"
    text = first + " = Second = \n \n Three . "
    assert articles(text) == [
        "= First =\nOne .\n= x + y =\n= = Part = =\nTwo .",
        "= Second =\nThree .",
    ]


def test_a_long_article_is_cut_at_the_end_of_a_paragraph() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    article = documents("evaluation.jsonl")[0]
    text, tokens = beginning(article, tokenizer, limit=400)
    following = article.removeprefix(text).split("\n")[1]
    with_newline = len(tokenizer.encode(text + "\n", add_special_tokens=False).ids)
    assert article.startswith(text + "\n")
    assert tokens == with_newline <= 400
    assert with_newline + len(tokenizer.encode(following + "\n", add_special_tokens=False).ids) > 400


def test_an_epoch_visits_windows_of_the_stream_once_each_in_an_order_that_the_seed_fixes() -> None:
    import torch

    stream = torch.arange(256 * 40)
    first, again, other = (next(batches(stream, seed)) for seed in (0, 0, 1))
    starts = first[:, 0]
    assert torch.equal(first, starts[:, None] + torch.arange(256))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(set(starts.tolist())) == len(starts)
    assert len({start % 256 for start in starts.tolist()}) == 1


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_twentieth() -> None:
    rates = [learning_rate(step, 1000) for step in range(1001)]
    assert rates.index(max(rates)) in (99, 100)
    assert max(rates) == pytest.approx(1.5e-3)
    assert rates[1000] == pytest.approx(1.5e-3 / 20)
    assert rates[100:] == sorted(rates[100:], reverse=True)
