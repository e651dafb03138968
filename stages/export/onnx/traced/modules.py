"""Models of transformers as modules that take and give tensors alone, as the inputs and outputs of a graph.

Caches are made of tensors on the way in and taken apart on the way out, and never cut to a window: a sliding
window's mask works on the whole past as well. The names are those of graphs that Ingot writes itself.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]
PARTS = ("key", "value")


@dataclass(frozen=True)
class CacheShape:
    """One layer's cache: heads and their width, of keys and of values."""

    key: tuple[int, int]
    value: tuple[int, int]


class Encoder(torch.nn.Module):
    """An encoder, for its last hidden state."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Tensors:
        """int64 [batch, sequence] both → the last hidden state [batch, sequence, hidden]."""
        return (self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state,)


class Decoder(torch.nn.Module):
    """A causal language model. layers: of its cache, 0 for none."""

    def __init__(self, network: Any, layers: int) -> None:
        super().__init__()
        self.network = network
        self._layers = layers
        self._takes = frozenset(inspect.signature(network.forward).parameters)

    @property
    def keeps(self) -> bool:
        """Whether it can compute the logits of some positions alone."""
        return "logits_to_keep" in self._takes

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logits_from: torch.Tensor,
        *past: torch.Tensor,
    ) -> Tensors:
        """Logits [batch, kept, vocabulary], and keys and values with this step where there is a cache.

        input_ids, position_ids: int64 [batch, sequence].  attention_mask: int64 [batch, past + sequence].
        logits_from: int64 [1], the first position that logits are computed for, from the end when negative.
        past: keys and values layer by layer, float32 [batch, heads, past, width].
        """
        given: dict[str, Any] = {"use_cache": False}
        if self._layers:
            cache = _cache(past)
            given = {"use_cache": True, "past_key_values": cache}
        if "position_ids" in self._takes:
            given["position_ids"] = position_ids
        if self.keeps:
            given["logits_to_keep"] = _kept(input_ids, logits_from)
        found = self.network(input_ids=input_ids, attention_mask=attention_mask, **given)
        return found.logits, *(_parts(cache) if self._layers else ())


class Source(torch.nn.Module):
    """The half of an encoder-decoder that reads."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Tensors:
        """int64 [batch, source] both → the last hidden state, and layer by layer the keys and values that the
        decoder sees of the source: they come about as it reads a first token, whatever that is.
        """
        from transformers import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        encoder = self.network.get_encoder()
        state = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=state),
            attention_mask=attention_mask,
            decoder_input_ids=torch.zeros_like(input_ids[:, :1]),
            past_key_values=cache,
            use_cache=True,
        )
        return state, *_parts(cache.cross_attention_cache)


class Target(torch.nn.Module):
    """The half that writes. layers: of the decoder.  hidden: features of the encoder's state."""

    def __init__(self, network: Any, layers: int, hidden: int) -> None:
        super().__init__()
        self.network = network
        self._layers = layers
        self._hidden = hidden

    def forward(
        self, input_ids: torch.Tensor, encoder_attention_mask: torch.Tensor, *cached: torch.Tensor
    ) -> Tensors:
        """Logits [batch, sequence, vocabulary], and keys and values that include this step.

        input_ids: int64 [batch, sequence].  encoder_attention_mask: int64 [batch, source].  cached: layer by
        layer the past, float32 [batch, heads, past, width], then what ``Source`` gave.
        """
        from transformers import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        half = 2 * self._layers
        cache = EncoderDecoderCache(_cache(cached[:half]), _cache(cached[half:]))
        cache.is_updated = dict.fromkeys(range(self._layers), True)
        # Nothing reads the encoder's state once its keys and values are there, but for its shape.
        state = torch.zeros(1, 1, 1).expand(*encoder_attention_mask.shape, self._hidden)
        found = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=state),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return found.logits, *_parts(cache.self_attention_cache)


def gather_experts(network: Any) -> int:
    """Makes mixtures of experts gather the weights of each token's experts, the only way that can be traced:
    transformers' others depend on which experts are chosen. The most bytes a token that this takes, 0 where
    there are no mixtures.
    """
    mixtures = [
        each for each in network.modules() if hasattr(each, "num_experts") and hasattr(each, "down_proj")
    ]
    if not mixtures:
        return 0
    network.set_experts_implementation("batched_mm")
    sizes = (sum(weight.nbytes for weight in each.parameters()) // each.num_experts for each in mixtures)
    return int(max(sizes)) * int(network.config.num_experts_per_tok)


def cache_shapes(cache: Any) -> tuple[CacheShape, ...]:
    """The layers of a cache that holds all keys and values as float32 [batch, heads, past, width]; none for
    one that is anything else, such as the state of a recurrent layer.
    """
    layers = getattr(cache, "layers", ())
    shapes = []
    for layer in layers:
        parts = [getattr(layer, name, None) for name in ("keys", "values")]
        if not all(isinstance(part, torch.Tensor) and part.ndim == 4 for part in parts):
            return ()
        key, value = ((int(part.shape[1]), int(part.shape[3])) for part in parts if part is not None)
        shapes.append(CacheShape(key, value))
    return tuple(shapes)


def _cache(parts: Tensors) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(len(parts) // len(PARTS)):
        cache.update(parts[2 * layer], parts[2 * layer + 1], layer)
    return cache


def _parts(cache: Any) -> Tensors:
    return tuple(part for layer in cache.layers for part in (layer.keys, layer.values))


def _kept(input_ids: torch.Tensor, logits_from: torch.Tensor) -> torch.Tensor:
    """The positions from ``logits_from`` on, by operations that a trace keeps: int64 [kept]."""
    count = torch.ones_like(input_ids[0]).sum()
    first = torch.where(logits_from < 0, logits_from + count, logits_from)
    return (torch.arange(input_ids.shape[1]) >= first).nonzero().squeeze(1)
