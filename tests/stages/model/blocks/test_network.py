"""Block by block, torch gives what transformers gives, for every family; replaced weights count at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ....conftest import CONTEXT, ENCODERS, FAMILIES, PAIRS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from ingot.stages.model.blocks.layer import Seen


def walk(directory: Path, visit: Callable[[Any, Seen], Any] | None = None, length: int = 40) -> Any:
    """What the blocks make of one batch; ``visit`` is shown the tensors and every stop, and gives what
    is read there instead, or None.
    """
    import torch
    from ingot.stages.model.blocks.network import State, advance, steps
    from ingot.stages.model.blocks.tensors import BlockTensors
    from ingot.stages.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(directory)
    tensors = BlockTensors(checkpoint.tensors, torch.device("cpu"), torch.float32)
    batch = batch_of(checkpoint.architecture.task, length)
    state = State(torch.empty(0))
    with torch.inference_mode():
        for step in steps(checkpoint.architecture):
            run, sent = step.run(tensors, lambda tensor: tensor, batch, state), None
            while True:
                try:
                    seen = run.send(sent)
                except StopIteration as stop:
                    state = advance(step, state.memory, stop.value)
                    break
                sent = None if visit is None else visit(tensors, seen)
            tensors.release()
    return state.hidden


def batch_of(task: str, length: int) -> Any:
    import torch
    from ingot.stages.model.blocks.network import Batch

    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(4, 320, (3, length), generator=generator)
    sources = torch.randint(4, 320, (3, length + 9), generator=generator) if task == "seq2seq-lm" else None
    return Batch(ids, sources)


def expected(directory: Path, family: str, length: int = 40) -> torch.Tensor:
    import torch
    import transformers

    kind = "AutoModel" if family in ENCODERS else "AutoModelForCausalLM"
    kind = "AutoModelForSeq2SeqLM" if family in PAIRS else kind
    model = getattr(transformers, kind).from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    batch = batch_of("seq2seq-lm" if family in PAIRS else "", length)
    with torch.inference_mode():
        if family in PAIRS:
            return model(input_ids=batch.sources, decoder_input_ids=batch.ids, use_cache=False).logits
        output = model(input_ids=batch.ids)
        return output.last_hidden_state if family in ENCODERS else output.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_give_what_transformers_gives(family: str, tiny_checkpoint: Any) -> None:
    import torch

    directory = tiny_checkpoint(family)
    torch.testing.assert_close(walk(directory), expected(directory, family), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "mixtral", "t5", "gpt2"])
def test_every_linear_weight_is_seen_once_with_an_input_of_its_width(
    family: str, tiny_checkpoint: Any
) -> None:
    from ingot.stages.model.checkpoint import Checkpoint

    stops: list[tuple[str, int, int]] = []

    def visit(_tensors: Any, seen: Seen) -> None:
        stops.extend((each.name, each.in_features, seen.inputs.shape[1]) for each in seen.linears)

    directory = tiny_checkpoint(family)
    walk(directory, visit)
    assert [name for name, _, _ in stops] == sorted(
        {name for name, _, _ in stops}, key=[name for name, _, _ in stops].index
    )
    assert all(width == found for _, width, found in stops)
    assert {name for name, _, _ in stops} == {
        each.name for each in Checkpoint.open(directory).architecture.linears
    }


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "bart", "mixtral"])
def test_a_weight_that_is_replaced_at_its_stop_counts_from_there_on(
    family: str, tiny_checkpoint: Any, tmp_path: Path
) -> None:
    import shutil

    import torch
    from ingot.stages.model.checkpoint import Checkpoint
    from safetensors.torch import load_file, save_file

    source = tiny_checkpoint(family)
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    names = {each.name for each in Checkpoint.open(source).architecture.linears}
    weights = load_file(changed / "model.safetensors")
    halved = {name: each.mul(0.5) if name in names else each for name, each in weights.items()}
    save_file(halved, changed / "model.safetensors", metadata={"format": "pt"})

    def visit(tensors: Any, seen: Seen) -> None:
        for linear in seen.linears:
            tensors.replace(linear, tensors.original(linear) * 0.5)

    torch.testing.assert_close(walk(source, visit), expected(changed, family), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "phi", "bert"])
def test_features_that_nobody_computed_can_be_sent_where_they_are_read(
    family: str, tiny_checkpoint: Any
) -> None:
    """Every other feature by zeros in what reads them, or with none computed and those that count sent."""
    import torch
    from ingot.stages.model.checkpoint import Checkpoint

    directory = tiny_checkpoint(family)
    model = Checkpoint.open(directory).architecture
    forms = [form for layer in model.layers for form in layer.feed_forward.blocks]
    exits = {form.down.name for form in forms}
    entries = {linear for form in forms for linear in form.linears[:-1]}
    active: dict[str, torch.Tensor] = {}

    def zero(tensors: Any, seen: Seen) -> None:
        for linear in seen.linears:
            if linear.name in exits:
                active[linear.name] = seen.inputs.clone()
                weight = tensors.original(linear).clone()
                weight[:, 1::2] = 0
                tensors.replace(linear, weight)

    def send(tensors: Any, seen: Seen) -> torch.Tensor | None:
        for linear in seen.linears:
            if linear in entries:
                tensors.replace(linear, tensors.original(linear)[:0])
                if linear.bias is not None:
                    tensors.replace_vector(linear.bias, tensors.vector(linear.bias)[:0])
            if linear.name in exits:
                assert seen.inputs.shape == (len(active[linear.name]), 0)
                tensors.replace(linear, tensors.original(linear)[:, ::2])
                return active[linear.name][:, ::2]
        return None

    torch.testing.assert_close(walk(directory, zero), walk(directory, send), rtol=1e-5, atol=1e-5)
    assert active.keys() == exits


def test_a_longer_context_than_the_original_rotates_by_the_long_factors(
    tiny_checkpoint: Any, tmp_path: Path
) -> None:
    import torch
    import transformers

    from ....conftest import DECODER, randomize

    config = transformers.Phi3Config(
        **{**DECODER, "original_max_position_embeddings": 24, "num_key_value_heads": 4},
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": CONTEXT / 24,
            "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.0 + i for i in range(8)],
        },
    )  # fmt: skip
    model = transformers.Phi3ForCausalLM(config)
    randomize(model, 3)
    model.save_pretrained(tmp_path)
    for length in (20, 40):
        found = walk(tmp_path, length=length)
        torch.testing.assert_close(found, expected(tmp_path, "phi3", length), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma"])
def test_what_a_map_gives_is_added_to_what_it_is_shown_with(family: str, tiny_checkpoint: Any) -> None:
    import torch

    onto: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def visit(tensors: Any, seen: Seen) -> None:
        if seen.onto is not None:
            (linear,) = seen.linears
            bias = tensors.vector(linear.bias) if linear.bias else 0.0
            onto.append(seen.onto.clone())
            given.append(seen.inputs @ tensors.original(linear).T + bias)

    walk(tiny_checkpoint(family), visit)
    assert len(onto) == 4
    for before, added, behind in zip(onto, given, onto[1:], strict=False):
        torch.testing.assert_close(before + added, behind, rtol=1e-4, atol=1e-4)


def test_maps_whose_output_is_normed_or_weighed_first_are_shown_with_nothing(tiny_checkpoint: Any) -> None:
    for family in ("gemma2", "mixtral"):
        shown: list[str] = []
        walk(
            tiny_checkpoint(family),
            lambda _tensors, seen, shown=shown: shown.extend(
                linear.name for linear in seen.linears if seen.onto is not None
            ),
        )
        assert all("o_proj" in name for name in shown), family
        assert bool(shown) == (family == "mixtral")
