"""What a network is, as a value: its shape, its pieces in order, and the tensor that plays each part.

A family (llama.py, gpt2.py, bert.py) reads a config.json into an :class:`Architecture`; exporters, quantizers
and loaders read the value and never the config. Nothing here imports numpy or a framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Task = Literal["causal-lm", "encoder", "seq2seq-lm"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
# Of the scale of a root-mean-square norm, Gemma stores what it has above one.
NormKind = Literal["rms", "rms_above_one", "layer"]


@dataclass(frozen=True)
class Linear:
    """A linear map y = x W^T + b.

    name: the weight's tensor, [out, in], or [in, out] where ``stored_in_out`` (GPT-2's Conv1D).
    role: what it is in the layer, such as `q_proj` or `lm_head`.  layer: None outside the layers.
    first: of a factored map, what its input goes through before: y = (x Fᵀ) Wᵀ + b with F [rank, in] and W
    [out, rank], so that in_features is the rank; see `compact.py`.
    """

    name: str
    role: str
    out_features: int
    in_features: int
    bias: str | None = None
    layer: int | None = None
    stored_in_out: bool = False
    first: Linear | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """[out, in], however it is stored."""
        return self.out_features, self.in_features

    @property
    def entry(self) -> Linear:
        """The map that reads what goes in: itself, unless it is factored."""
        return self.first or self

    @property
    def weights(self) -> tuple[Linear, ...]:
        """The one map that it is, or the two that it is factored into, in the order of computation."""
        return (self.first, replace(self, first=None)) if self.first else (self,)


@dataclass(frozen=True)
class Norm:
    """A normalization over the last axis: tensor names of its scale and, if any, its shift."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (arXiv:2104.09864) in the half-split order.

    dim: the features of a head that are rotated, from the first on.  kind: how the frequencies are scaled for
    longer contexts, with the numbers that kind needs (factor, ...) in ``scaling``.  factors: what longrope
    divides each frequency by, in a context up to the original one and in a longer one.
    """

    theta: float
    dim: int
    kind: Literal["default", "linear", "llama3", "longrope"] = "default"
    scaling: Mapping[str, float] | None = None
    factors: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class RelativeBias:
    """Biases on the scores by distance between key and query (T5, arXiv:1910.10683, section 2.1).

    table: tensor name of the biases [buckets, heads].  Half of the buckets (of each direction, where both are
    seen) are one distance each, the other half grow as the logarithm up to max_distance.
    """

    table: str
    buckets: int
    max_distance: int
    both_directions: bool


@dataclass(frozen=True)
class Attention:
    """One attention block.

    inputs: the maps that give query, key and value: three, or one whose output holds them side by side, for
    every head anew where it is ``interleaved``.
    scale: what the scores are multiplied by.  softcap: c of c·tanh(score / c), taken before the mask.
    window: how many positions a query sees, itself included; None for all.
    query_norm, key_norm: normalizations of each head before its rotation.
    rope: of this block, where it is another than the architecture's.
    """

    inputs: tuple[Linear, ...]
    output: Linear
    scale: float
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rope: Rope | None = None
    softcap: float | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class FeedForward:
    """down(activation(up x)), or down(activation(gate x) * up x) where there is a gate.

    gate_in_up: the first half of what ``up`` gives is the gate's.
    """

    up: Linear
    down: Linear
    gate: Linear | None = None
    gate_in_up: bool = False

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its maps in the order of computation, a factored one as one."""
        return (*((self.gate,) if self.gate else ()), self.up, self.down)

    @property
    def blocks(self) -> tuple[FeedForward, ...]:
        """Itself, as a mixture has several."""
        return (self,)


@dataclass(frozen=True)
class Mixture:
    """A sparse mixture of experts (arXiv:2401.04088, section 2.1): each token goes through a few of many.

    router: gives each expert's logit; its softmax is the experts' weights.  chosen: how many of the heaviest
    a token goes through; normalized: their weights are divided by their sum.
    shared: goes beside them for every token, weighted by the sigmoid of ``shared_gate``.
    Router and shared gate decide and are small, so they are never quantized.
    """

    router: Linear
    experts: tuple[FeedForward, ...]
    chosen: int
    normalized: bool
    shared: FeedForward | None = None
    shared_gate: Linear | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The maps that may be quantized, in the order of computation."""
        return tuple(weight for block in self.blocks for linear in block.linears for weight in linear.weights)

    @property
    def blocks(self) -> tuple[FeedForward, ...]:
        """Its experts, and the one for every token."""
        return (*self.experts, *((self.shared,) if self.shared else ()))

    @property
    def gates(self) -> tuple[Linear, ...]:
        """The maps that stay in floating point."""
        return (self.router, *((self.shared_gate,) if self.shared_gate else ()))


@dataclass(frozen=True)
class Layer:
    """One block; where its norms stand is said by the architecture's ``norm_first`` and ``parallel``.

    attention_post_norm, feed_forward_post_norm: of what a block gives, before it is added (Gemma 2).
    cross_attention: attention to what an encoder made of the source, between the other two.
    """

    index: int
    attention: Attention
    attention_norm: Norm
    feed_forward: FeedForward | Mixture
    feed_forward_norm: Norm
    cross_attention: Attention | None = None
    cross_attention_norm: Norm | None = None
    attention_post_norm: Norm | None = None
    feed_forward_post_norm: Norm | None = None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The maps that may be quantized, in the order of computation."""
        found: list[Linear] = []
        for attention in (self.attention, self.cross_attention):
            found += [*attention.inputs, attention.output] if attention else []
        found += self.feed_forward.linears
        return tuple(weight for linear in found for weight in linear.weights)


@dataclass(frozen=True)
class Architecture:
    """A network of one of the known families.

    hidden, heads, kv_heads, head_dim, vocabulary: sizes.  context: the longest sequence, in tokens.
    norm: root mean square or layer normalization; norm_first: x + f(norm(x)), else norm(x + f(x)); parallel:
    x + attention(norm(x)) + feed_forward(norm(x)), both of the layer's own x.
    embedding, position_embedding, token_type_embedding: tensor names; token_types: rows of the last.
    position_offset: rows of the position embedding before that of position 0.  position_padding: the id of a
    padding token that takes no position: it gets the row before that of position 0.  relative_bias: of all
    layers.  embedding_scale: what token embeddings are multiplied by.  head_scale: what goes into the head
    is.  head_bias: tensor name of [1, vocabulary], added to the logits.  logit_softcap: c of c·tanh(x / c).
    embedding_in, embedding_out: maps between token embeddings that are narrower than hidden and the layers.
    head: the output head, None when it is the token embedding (``tied``) or when there is none.  ignored:
    shell patterns of tensors that a checkpoint may hold and that this network does not use.  copies: tensors
    that are the token embedding, bit for bit, where a checkpoint holds them.
    encoder: the half that reads the source, of a `seq2seq-lm`; all else is then of the half that writes the
    target, which begins with the token decoder_start.
    """

    model_type: str
    task: Task
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    activation: Activation
    norm: NormKind
    norm_eps: float
    norm_first: bool
    embedding: str
    layers: tuple[Layer, ...]
    rope: Rope | None = None
    position_embedding: str | None = None
    token_type_embedding: str | None = None
    token_types: int = 0
    embedding_norm: Norm | None = None
    final_norm: Norm | None = None
    head: Linear | None = None
    tied: bool = False
    ignored: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    position_offset: int = 0
    position_padding: int | None = None
    relative_bias: RelativeBias | None = None
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    head_bias: str | None = None
    encoder: Architecture | None = None
    decoder_start: int | None = None
    parallel: bool = False
    logit_softcap: float | None = None
    embedding_in: Linear | None = None
    embedding_out: Linear | None = None

    @property
    def embedding_width(self) -> int:
        """Features of a token's embedding."""
        return self.embedding_in.in_features if self.embedding_in else self.hidden

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The tensor names of the token embeddings: one, or two where an encoder has its own."""
        halves = (self.encoder, self) if self.encoder else (self,)
        return tuple(dict.fromkeys(half.embedding for half in halves))

    @property
    def lm_head(self) -> str | None:
        """The tensor name of an output head of its own."""
        return self.head.name if self.head else None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Every linear weight that may be quantized, in the order of computation; once where it is shared."""
        found: list[Linear | None] = list(self.encoder.linears) if self.encoder else []
        found.append(self.embedding_in)
        for layer in self.layers:
            found += layer.linears
        found += [self.embedding_out, self.head]
        by_name: dict[str, Linear] = {}
        for linear in found:
            if linear is not None:
                by_name.setdefault(linear.name, linear)
        return tuple(by_name.values())

    @property
    def gates(self) -> tuple[Linear, ...]:
        """Linear weights that are never quantized: the routers of mixtures."""
        mixtures = [layer.feed_forward for layer in self.layers if isinstance(layer.feed_forward, Mixture)]
        return tuple(dict.fromkeys(linear for mixture in mixtures for linear in mixture.gates))

    @property
    def routed(self) -> frozenset[str]:
        """The weights of the experts of mixtures, each of which sees some of the tokens alone."""
        mixtures = [layer.feed_forward for layer in self.layers if isinstance(layer.feed_forward, Mixture)]
        experts = [expert for mixture in mixtures for expert in mixture.experts]
        return frozenset(
            weight.name for expert in experts for linear in expert.linears for weight in linear.weights
        )
