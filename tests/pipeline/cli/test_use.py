"""`ingot generate`: deliveries and artifacts continue prompts, whoever made them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Ended, Workplace

    Built = Callable[[str], tuple[Workplace, Ended]]


class TestGenerate:
    LINE = ("--max-new-tokens", "5", "--store", "st")

    def test_a_delivery_and_a_digest_continue_a_prompt_alike(self, built: Built) -> None:
        workplace, ended = built("llama")
        one = workplace.ingot("generate", "out/cpu-int8", "the river", *self.LINE)
        assert one.code == 0
        assert one.out.startswith("the river")
        assert "5 tokens in " in one.err
        digest = ended.json["targets"]["cpu-int8"]["artifact"]
        assert workplace.ingot("generate", digest[:12], "the river", *self.LINE).out == one.out

    def test_a_delivery_from_anybody_has_its_tokenizer_checked_as_a_checkpoint_has(
        self, workplace: Workplace
    ) -> None:
        path = workplace.directory / "out" / "cpu-int8" / "tokenizer.json"
        sound = json.loads(path.read_text())
        split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
        foreign = {**sound["added_tokens"][0], "id": 1 << 20, "content": "<|foreign|>"}
        broken = {
            "repeats without end": {**sound, "pre_tokenizer": split},
            "larger than the vocabulary": {**sound, "added_tokens": [foreign]},
            "tokenizer.json is malformed": {**sound, "model": {"vocab": 1}},
        }
        for reason, value in broken.items():
            path.write_text(json.dumps(value))
            ended = workplace.ingot("generate", "out/cpu-int8", "a" * 40, *self.LINE)
            ended.refuses(reason, "out/cpu-int8/tokenizer.json")

    def test_json_has_a_result_for_every_prompt(self, built: Built) -> None:
        workplace, _ = built("llama")
        told = workplace.ingot("generate", "out/cpu-int8", "the river", "a boat", "--json", *self.LINE).json
        assert [result["prompt"] for result in told["results"]] == ["the river", "a boat"]
        assert told["tokens"] == sum(len(result["tokens"]) for result in told["results"])
        assert all(0 < len(result["tokens"]) <= 5 for result in told["results"])

    def test_a_seed_repeats_what_was_drawn(self, built: Built) -> None:
        workplace, _ = built("llama")
        line = ("generate", "out/cpu-int8", "the river", "--temperature", "2", "--top-k", "50", *self.LINE)
        drawn = [workplace.ingot(*line, "--seed", seed).out for seed in ("1", "1", "2")]
        assert drawn[0] == drawn[1] != drawn[2]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (("out/cpu-int8", "the river " * 200), ("prompt 1 has", "context 128", "give at most 127")),
            (("out/cpu-int8", ""), ("prompt 1 is empty",)),
            (("out", "hi"), ("out holds no ingot.json", "did you mean out/cpu-")),
            (("nowhere", "hi"), ("nowhere is neither a directory nor an artifact", "ingot ls")),
            (("out/cpu-int8", "hi", "--top-p", "1.5"), ("--top-p", "ingot generate --help")),
        ],
    )
    def test_what_cannot_be_continued_is_told(
        self, built: Built, line: tuple[str, ...], words: tuple[str, ...]
    ) -> None:
        workplace, _ = built("llama")
        workplace.ingot("generate", *line, *self.LINE).refuses(*words)

    def test_what_is_no_graph_and_what_is_no_generator_are_told_apart(self, built: Built) -> None:
        workplace, _ = built("llama")
        digest = workplace.outputs()["quantize@cpu-int8"]
        ended = workplace.ingot("generate", digest, "hi", *self.LINE)
        ended.refuses("is a quantized-checkpoint", "name an artifact of kind onnx")
        workplace, _ = built("bert")
        ended = workplace.ingot("generate", "out/cpu-int8", "hi", *self.LINE)
        ended.refuses("out/cpu-int8 is an encoder", "README.md")
