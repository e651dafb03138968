"""Norms, activations, rotations and attention as functions of tensors, as exported graphs compute them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from ....artifacts.errors import StageError
from ..positions import buckets, inverse_frequencies

if TYPE_CHECKING:
    from ..families import Architecture, Attention, Norm, RelativeBias, Rope
    from ..families.architecture import Activation
    from .tensors import BlockTensors


def norm(tensors: BlockTensors, model: Architecture, form: Norm, value: torch.Tensor) -> torch.Tensor:
    """Normalizes the last axis in float32 (RMSNorm, arXiv:1910.07467, or LayerNorm, 1607.06450)."""
    value, scale = value.float(), tensors.vector(form.weight)
    if model.norm == "layer":
        shift = tensors.vector(form.bias) if form.bias else None
        return functional.layer_norm(value, scale.shape, scale, shift, model.norm_eps)
    scale = scale + 1.0 if model.norm == "rms_above_one" else scale
    return functional.rms_norm(value, scale.shape, scale, model.norm_eps)


def activate(kind: Activation, value: torch.Tensor) -> torch.Tensor:
    """The activation, element by element."""
    match kind:
        case "silu":
            return functional.silu(value)
        case "gelu":
            return functional.gelu(value)
        case "gelu_tanh":
            return functional.gelu(value, approximate="tanh")
        case "relu":
            return functional.relu(value)
    raise StageError(f"nothing computes the activation {kind!r}")


def rotations(rope: Rope, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the angles of positions from 0: float32 [length, dim / 2] each."""
    frequencies = inverse_frequencies(rope)
    scaling, factor = rope.scaling or {}, 1.0
    if rope.kind == "longrope":
        frequencies = frequencies[int(length > scaling["original_max_position_embeddings"])]
        factor = scaling["attention_factor"]
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = positions[:, None] * torch.from_numpy(frequencies).to(device)
    return angles.cos() * factor, angles.sin() * factor


def rotate(value: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotates the first features of [batch, heads, length, head_dim], halves paired (arXiv:2104.09864)."""
    half = cosine.shape[-1]
    first, second, rest = value[..., :half], value[..., half : 2 * half], value[..., 2 * half :]
    cosine, sine = cosine.to(value.dtype), sine.to(value.dtype)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat((*turned, rest), dim=-1)


def distance_bias(
    bias: RelativeBias, table: torch.Tensor, queries: int, keys: int, device: torch.device
) -> torch.Tensor:
    """T5's biases on the scores (arXiv:1910.10683): float32 [1, heads, queries, keys].

    table: [buckets, heads].
    """
    between = torch.arange(keys, device=device)[None, :] - torch.arange(queries, device=device)[:, None]
    places = between.clamp(-bias.max_distance, bias.max_distance) + bias.max_distance
    numbers = torch.from_numpy(buckets(bias)).to(device)[places]
    return table[numbers].permute(2, 0, 1)[None]


def causal_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool [length, length]: a query sees positions up to its own, with a window only its last ones."""
    position = torch.arange(length, device=device)
    seen = position[None, :] <= position[:, None]
    return seen if window is None else seen & (position[None, :] > position[:, None] - window)


def attend(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    form: Attention,
    *,
    causal: bool,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """softmax(scale·QKᵀ + bias)·V for query [batch, heads, length, head_dim] and key and value of as many
    heads or fewer; gives [batch, length, heads·head_dim].

    bias: float32 [1, heads, queries, keys].
    """
    query, key, value = parts
    length = query.shape[2]
    mask = bias
    if causal and (form.window is not None or bias is not None or form.softcap is not None):
        hidden = ~causal_mask(length, form.window, query.device)
        base = bias if bias is not None else torch.zeros(1, 1, length, length, device=query.device)
        mask = base.masked_fill(hidden, -math.inf)
    if form.softcap is not None:
        mixed = _capped(query, key, value, form.scale, form.softcap, mask)
    else:
        mixed = functional.scaled_dot_product_attention(
            query, key, value, None if mask is None else mask.to(query.dtype),
            is_causal=causal and mask is None, scale=form.scale, enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip
    return mixed.transpose(1, 2).flatten(2)


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    cap: float,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attention whose scores are capped before they are masked (Gemma 2, arXiv:2408.00118, section 2)."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = cap * torch.tanh((query @ key.transpose(2, 3)).float() * (scale / cap))
    scores = scores if mask is None else scores + mask
    return scores.softmax(-1).to(value.dtype) @ value
