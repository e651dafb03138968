"""What a node will take: from past runs of its stage, scaled to its work, else from what the stage states.

A stage's estimate (`stages/estimates/`) says how cost grows with parameters and tokens. Every action record
keeps what was stated for it, so actual / stated is a factor without a unit: how much more the stage takes,
here and as it is, than was stated. The median of the newest factors times what is stated now is the
prediction. It is taken over the records most like the node: those of its own name, else those of equal
parameters and kinds of inputs, else all of the stage; times only over records of this machine, where it has
any. A median forgives a run that met a busy machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..artifacts import schema
from ..stages import base
from ..stages.base import Estimate, Work
from ..stages.estimates.table import estimate
from .data import ROLES, texts_of

if TYPE_CHECKING:
    from pathlib import Path

    from ..artifacts.manifest import Action
    from ..targets.host import Host
    from .graph import Graph, Node
    from .history import History

# A token of text takes about so many bytes, in English and code alike.
TOKEN_BYTES = 4
# The newest records tell of the code and the machine as they are.
NEWEST = 9
TIMES = ("seconds", "cpu_seconds")
LOGITS = "logits"


@dataclass(frozen=True)
class Prediction:
    """What a node will take.

    held_bytes: memory that the system cannot take back.  max_rss_bytes: with the pages of files, as the
    peak is recorded.  runs: how many past runs say so; 0: it is what the stage states.
    """

    seconds: float
    cpu_seconds: float
    held_bytes: int
    max_rss_bytes: int
    output_bytes: int
    runs: int = 0
    stated: Mapping[str, float] = field(default_factory=dict)
    work: Work = field(default_factory=Work)

    @property
    def basis(self) -> str:
        """Where the numbers are from, in words."""
        return "estimated" if not self.runs else f"from {self.runs} run{'s' if self.runs > 1 else ''}"

    def to_json(self) -> dict[str, object]:
        """The prediction as plain values, for `plan.json`."""
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "held_bytes": self.held_bytes,
            "max_rss_bytes": self.max_rss_bytes,
            "output_bytes": self.output_bytes,
            "runs": self.runs,
        }

    def record(self) -> dict[str, object]:
        """What the action record keeps, so that later predictions can be scaled: what was stated, of what."""
        return {"stated": dict(self.stated), "work": asdict(self.work)}


class Predictor:
    """Predicts the nodes of one graph, in its order: what a node makes is what the next ones take."""

    def __init__(self, graph: Graph, history: Callable[[], History], host: Host) -> None:
        self._graph = graph
        self._history = history
        self._host = host
        self._parameters: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._outputs: dict[str, tuple[str, int]] = {}

    def cached(self, node: Node, facts: Mapping[str, object], size_bytes: int) -> None:
        """Notes a node that is not run: facts and bytes of its artifact."""
        self._follow(node)
        parameters = facts.get("parameters")
        if isinstance(parameters, int):
            self._parameters[node.name] = parameters
        self._outputs[node.name] = base.get(node.stage).output, size_bytes

    def predict(self, node: Node) -> Prediction:
        """What a node will take; its inputs were predicted or noted before."""
        self._follow(node)
        stage = base.get(node.stage)
        work = Work(
            self._parameters[node.name],
            _number(self._source(node), "weight_bytes"),
            self._tokens[node.name],
            {name: self._outputs[source] for name, source in node.inputs.items()},
            self._host.cores,
        )
        params = _within(node.params, _number(self._source(node), "context"))
        stated = _stated(estimate(stage, params, work), work.cores)
        alike = likest(self._history().of_stage(node.stage), node, work)
        found = {name: _scaled(name, value, alike, self._host) for name, value in stated.items()}
        output_bytes = round(found["output_bytes"])
        self._outputs[node.name] = stage.output, output_bytes
        return Prediction(
            found["seconds"],
            found["cpu_seconds"],
            round(found["held_bytes"]),
            round(found["max_rss_bytes"]),
            output_bytes,
            len(alike),
            stated,
            work,
        )

    def _follow(self, node: Node) -> None:
        """Carries parameters and tokens from a node's inputs to it."""
        sources = node.inputs.values()
        own = _number(self._source(node), "parameters") if not node.inputs else 0
        self._parameters[node.name] = max((own, *(self._parameters[source] for source in sources)))
        texts = (text for role in ROLES for text in texts_of(node.params, role))
        tokens = sum(_text_bytes(text) for text in texts) // TOKEN_BYTES
        limit = getattr(node.params, "max_tokens", 0)
        measured = (self._tokens[each] for each in sources if self._outputs[each][0] == LOGITS)
        capped = min(tokens, limit) if limit else tokens
        self._tokens[node.name] = capped or max(measured, default=0)

    def _source(self, node: Node) -> Mapping[str, object]:
        """What is known of the checkpoint that a node loads, or of the recipe's model."""
        return self._graph.sources.get(node.name, self._graph.facts)


def likest(actions: tuple[Action, ...], node: Node, work: Work) -> tuple[Action, ...]:
    """Of a stage's actions, newest first, the newest of those that are most like ``node``."""
    usable = [action for action in actions if isinstance(action.observed.get("stated"), Mapping)]
    params = schema.to_plain(node.params, key_only=True)
    kinds = {name: kind for name, (kind, _) in work.inputs.items()}

    def same_work(action: Action) -> bool:
        inputs: Any = action.observed.get("work", {})
        were = {name: kind for name, (kind, _) in inputs.get("inputs", {}).items()}
        then: Any = action.preimage.get("params", {})
        return were == kinds and all(params.get(name) == value for name, value in then.items())

    tiers: tuple[Callable[[Action], bool], ...] = (
        lambda action: action.node == node.name,
        same_work,
        lambda _action: True,
    )
    found = ([action for action in usable if tier(action)] for tier in tiers)
    return tuple(next((group for group in found if group), [])[:NEWEST])


def _stated(found: Estimate, cores: int) -> dict[str, float]:
    """An estimate by the names of what is observed."""
    return {
        "seconds": found.cpu_seconds / max(1, min(cores, found.parallel)),
        "cpu_seconds": found.cpu_seconds,
        "held_bytes": found.memory_bytes,
        "max_rss_bytes": found.memory_bytes + found.mapped_bytes,
        "output_bytes": found.output_bytes,
    }


def _scaled(name: str, value: float, actions: tuple[Action, ...], host: Host) -> float:
    """What is stated now times the median of actual / stated; what is stated where nothing was observed."""
    import statistics  # never needed for what is all cached, and it imports much

    here = [action for action in actions if action.observed.get("host") == host.fingerprint()]
    factors = []
    for action in here if here and name in TIMES else actions:
        stated: Any = action.observed["stated"]
        actual, then = action.observed.get(name), stated.get(name)
        if isinstance(actual, int | float) and isinstance(then, int | float) and actual > 0 and then > 0:
            factors.append(actual / then)
    return value * statistics.median(factors) if factors else value


def _text_bytes(path: Path) -> int:
    """The bytes of a text; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def _within(params: Any, context: int) -> Any:
    """Parameters whose window is no longer than the context, as stages cut it; 0: of no known length."""
    window = getattr(params, "window", None)
    is_longer = isinstance(window, int) and 0 < context < window
    return replace(params, window=context) if is_longer else params


def _number(facts: Mapping[str, object], name: str) -> int:
    value = facts.get(name, 0)
    return value if isinstance(value, int) else 0
