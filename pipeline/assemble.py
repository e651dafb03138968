"""From a recipe and what is known of its source to the graph: which stages, with which parameters, and why.

    load ─┬─ reference ───────────────────┬─ quality@T
          ├─ export@reference ────────┬───│─ cost@T
          └─ quantize@T ── export@T ──┴───┘

The shared stages of a recipe stand between `load` and the targets. Every parameter's value comes from the
layers (`layers.py`), and its stage says whether it may be.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import RecipeError, nearest
from ..artifacts.schema import fields, unknown_name
from ..stages import base
from ..stages.load.hub import resolve as resolve_source
from ..stages.load.intake import inspect_source
from ..targets import host as hosts
from ..targets import profile as profiles
from ..targets.profile import SECTIONS, Profile
from ..targets.rules import Facts, Rule, Setting
from .data import BUNDLED_ORIGIN, EVALUATION, ROLES, check_length
from .graph import Builder, GateRule, Graph, Leaf, Node
from .layers import GATES, METHOD, NONE, Settings, names_target, outer_layers, resolve, section
from .parameters import Choice, choose, find_stage
from .rules import require_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .recipe import Recipe, Target

LOAD = "load"


def build_graph(recipe: Recipe, facts: Facts, host: hosts.Host | None = None) -> Graph:
    """The graph of a recipe.

    facts: of the source, from its headers alone: task, architecture, model_type, parameters ... (those that
    the rules of profiles may ask for).  host: where it is built; this machine when None.  Raises RecipeError
    for an unknown or unused setting, a stage that a target does not take, and edges that do not fit.
    """
    host = host or hosts.probe()
    _check_overrides(recipe)
    assembly = _Assembly(recipe, {**facts, "int8_dot_product": host.has_int8_dot_product})
    checkpoint = assembly.trunk()
    leaves = [assembly.branch(target, checkpoint) for target in recipe.targets]
    return assembly.builder.graph(leaves, facts, tuple(assembly.notes()))


def graph_of(recipe: Recipe, host: hosts.Host | None = None) -> Graph:
    """The graph of a recipe whose model is looked at now: found (or fetched from the hub), and inspected.

    Raises IntakeError for a source that may not be loaded, and what :func:`build_graph` raises.
    """
    directory = resolve_source(recipe.model).absolute()
    facts = asdict(inspect_source(directory))
    return build_graph(replace(recipe, model=str(directory)), facts, host)


class _Assembly:
    """A graph in the making: the builder, and the kinds of text that its stages read."""

    def __init__(self, recipe: Recipe, facts: Facts) -> None:
        self.builder = Builder()
        self._recipe = recipe
        self._facts = facts
        self._roles: set[str] = set()
        self._reference = LOAD

    def trunk(self) -> str:
        """Adds `load` and the shared stages; the name of the last one."""
        recipe = self._recipe
        settings = resolve([recipe.settings, *outer_layers(recipe.overrides, None)])
        values = section(settings, LOAD)
        if "model" in values:
            raise RecipeError("load.model: the model is named by model:", where=values["model"].origin)
        origin = recipe.origins.get("model", recipe.source)
        values["model"] = Setting((LOAD, "model"), recipe.model, origin)
        choice = choose(base.get(LOAD), LOAD, values, recipe.data)
        last = self._add(LOAD, choice, {}, None, "the recipe's model")
        for family in recipe.shared:
            last = self._add_from(family, family, settings, last, None)
            if family == recipe.reference:
                self._reference = last
        return last

    def branch(self, target: Target, checkpoint: str) -> Leaf:
        """Adds what belongs to one target, from the shared checkpoint to what is delivered and measured."""
        profile = profiles.get(target.profile, target.origin)
        rules = profile.chosen(self._facts)
        settings = _with_limits(self._layered(target, rules), profile, target)
        plain = self._add_from(
            "export@reference", "export", settings, self._reference, None, "what cost is compared with"
        )
        reference = self._measure("reference", settings, {"model": self._reference}, target)
        model, width = self._quantize(target, profile, rules, settings, checkpoint)
        reason = f"what runs on {target.name}, through {profile.runtime}"
        artifact = self._add_from(f"export@{target.name}", "export", settings, model, target, reason)
        quality = self._measure("quality", settings, {"artifact": artifact, "reference": reference}, target)
        sides = {"artifact": artifact, "reference": plain, "source": LOAD}
        cost = self._measure("cost", settings, sides, target)
        gates = self._gates(target, profile, width)
        requires = {"onnxruntime": profile.limits.onnxruntime} if profile.limits.onnxruntime else {}
        return Leaf(target.name, profile.name, artifact, quality, cost, gates, requires)

    def notes(self) -> Iterator[str]:
        """What must be said of the texts: which bundled ones are used, and which given ones are not."""
        data = self._recipe.data
        for role in ROLES:
            found = data.file(role)
            if role in self._roles and found is not None and found[1] == BUNDLED_ORIGIN:
                yield f"the recipe names no {role} text: the bundled one is used"
            elif role in data.files and role not in self._roles:
                yield f"data.{role} ({data.origins[role]}) is not read by any stage of this recipe"

    def _layered(self, target: Target, rules: Sequence[Rule]) -> Settings:
        """The settings that hold for a target, over those of its profile."""
        inner = [*(rule.settings for rule in rules), self._recipe.settings, target.settings]
        return resolve([*inner, *outer_layers(self._recipe.overrides, target.name)])

    def _quantize(
        self, target: Target, profile: Profile, rules: Sequence[Rule], settings: Settings, source: str
    ) -> tuple[str, str]:
        """The node whose output has the target's weights (``source`` for method none), and their width."""
        method = _method(settings, "quantize", target)
        values = section(settings, "quantize")
        if method.value == NONE:
            for name, setting in values.items():
                what = f"quantize.{name} has no effect: {target.name} does not quantize"
                raise RecipeError(
                    what, where=setting.origin, fix=f"set quantize.{METHOD} too, or take it out"
                )
            _check_accepted(target, profile, method, "fp32")
            return source, "fp32"
        because = next((rule.because for rule in reversed(rules) if method in rule.settings), "")
        reason = f"{method.origin}: {because}" if because else f"asked for by {method.origin}"
        node = self._add_from(f"quantize@{target.name}", "quantize", settings, source, target, reason)
        bits = getattr(self.builder.node(node).params, "bits", None)
        width = f"int{bits}" if bits is not None else str(method.value)
        _check_accepted(target, profile, values.get("bits", method), width, str(method.value))
        return node, width

    def _measure(self, kind: str, settings: Settings, inputs: Mapping[str, str], target: Target) -> str:
        """Adds one of the validate stages; the reference is shared where its parameters are the same."""
        owner = target if "artifact" in inputs else None
        name = f"{kind}@{target.name}" if owner else kind
        reason = f"measures {inputs['artifact']}" if owner else "what quality is compared with"
        choice = choose(base.get(f"validate.{kind}"), name, section(settings, kind), self._recipe.data)
        if EVALUATION in choice.roles:
            self._check_text(choice)
        return self._add(name, choice, inputs, owner, reason, f"{name}/{target.name}")

    def _check_text(self, choice: Choice) -> None:
        """Raises DataError when the evaluation text is shorter than one of the stage's windows."""
        window = int(getattr(choice.params, "window", 0))
        context = int(str(self._facts.get("context", window)))
        text = Path(getattr(choice.params, EVALUATION))
        check_length(text, min(window, context), choice.origins[EVALUATION])

    def _gates(self, target: Target, profile: Profile, width: str) -> tuple[GateRule, ...]:
        """The target's gates: those of its profile for this width of weights, under those of the recipe."""
        settings = self._layered(target, profile.default_gates({**self._facts, "weights": width}))
        rules = tuple(
            GateRule(path[1], path[2], setting.value, setting.origin)  # type: ignore[arg-type]
            for path, setting in settings.items()
            if path[0] == GATES
        )
        require_task(rules, str(self._facts["task"]))
        return rules

    def _add_from(
        self, name: str, family: str, settings: Settings, source: str, target: Target | None, reason: str = ""
    ) -> str:
        """Adds the stage that a family's method names, with ``source`` as its only input."""
        method = _method(settings, family, target)
        stage = find_stage(family, method)
        choice = choose(stage, name, section(settings, family), self._recipe.data)
        if len(stage.inputs) != 1:
            raise RecipeError(
                f"stage {stage.name} takes {len(stage.inputs)} inputs, not one", where=method.origin
            )
        inputs = {next(iter(stage.inputs)): source}
        return self._add(name, choice, inputs, target, reason or f"asked for by {method.origin}", None)

    def _add(
        self,
        name: str,
        choice: Choice,
        inputs: Mapping[str, str],
        target: Target | None,
        reason: str,
        spare: str | None = None,
    ) -> str:
        self._roles.update(choice.roles)
        owner, seed = target.name if target else None, self._recipe.seed
        node = Node(name, choice.stage.name, choice.params, inputs, owner, reason, choice.origins, seed)
        return self.builder.add(node, spare)


def _method(settings: Settings, family: str, target: Target | None) -> Setting:
    method = settings.get((family, METHOD))
    if method is None:
        who = f"the target {target.name}" if target else "the recipe"
        where = target.origin if target else None
        raise RecipeError(
            f"{family}: {who} names no method", where=where, fix=f"write {family}: {{method: ...}}"
        )
    return method


def _with_limits(settings: Settings, profile: Profile, target: Target) -> Settings:
    """The settings with the profile's limits for an exporter that takes them (`opset_range` for `opset`)."""
    known = fields(find_stage("export", _method(settings, "export", target)).params)
    limits = ((f"{name}_range", limit) for name, limit in vars(profile.limits).items() if limit is not None)
    origin = f"profile {profile.name} (limits)"
    added = [Setting(("export", name), limit, origin) for name, limit in limits if name in known]
    return {**{setting.path: setting for setting in added}, **settings}


def _check_accepted(
    target: Target, profile: Profile, setting: Setting, width: str, method: str = NONE
) -> None:
    """Raises RecipeError when the target's profile takes neither the method nor the width."""
    for what, value, valid in (
        (f"quantize.{METHOD}", method, profile.accepts.quantize),
        ("weights of", width, profile.accepts.weights),
    ):
        if valid is not None and value not in valid:
            fix = f"it takes {', '.join(valid)}; set others under targets.{target.name}, or drop the target"
            raise RecipeError(
                f"the target {target.name} does not take {what} {value}", where=setting.origin, fix=fix
            )


def _check_overrides(recipe: Recipe) -> None:
    """Raises RecipeError for overrides of nodes or targets that the recipe does not have."""
    shared = (LOAD, *recipe.shared)
    names = [target.name for target in recipe.targets]
    for override in recipe.overrides:
        family, origin = override.setting.path[0], override.setting.origin
        if family not in (*shared, *SECTIONS, GATES):
            raise unknown_name(family, (*shared, *SECTIONS, GATES), prefix="", where=origin)
        if override.target is None:
            continue
        if family in shared:
            fix = f"write {family} without @{override.target}"
            raise RecipeError(f"{family} is shared by all targets", where=origin, fix=fix)
        if not any(names_target(override.target, name) for name in names):
            guess = nearest(override.target, names)
            fix = f"did you mean {guess}?" if guess else f"targets are {', '.join(names)}"
            raise RecipeError(f"the recipe has no target {override.target!r}", where=origin, fix=fix)
