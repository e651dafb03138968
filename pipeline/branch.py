"""What belongs to one target, from the shared node that it takes to what is delivered and measured.

A target that takes a checkpoint quantizes and exports it as its profile says; one that takes a quantized
checkpoint exports it; one that takes what its runtime opens adds nothing. An adapter is delivered as it is,
and measured folded into its base. All of them are measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts import schema
from ..artifacts.errors import RecipeError, RequirementError
from ..stages import base
from ..targets import profile as profiles
from ..targets.demands import Demand, broken
from ..targets.rules import Rule, Setting
from .data import EVALUATION, check_length
from .draft import Draft, stage_of
from .graph import GateRule, Leaf, Node
from .layers import GATES, METHOD, NONE, Settings, names_target, outer_layers, resolve, section
from .matrix import Cell, cell_name
from .rules import require_addable, require_measured, require_task
from .steps import FROM
from .trunk import CHECKPOINT, EXPORT, LOAD_QUANTIZED, PACKED_WIDTH, QUANTIZED
from .units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .recipe import Recipe
    from .recipe_targets import Target

QUANTIZE = "quantize"
ADAPTER, FUSE, FUSE_LORA = "adapter", "fuse", "fuse.lora"
# The input of validate.cost that is delivered, where another one is measured.
SHIPPED = "shipped1"
# The graph that an exporter compiles, where it takes no checkpoint.
GRAPH = "graph"
PLAIN = "fp32"
# What floating-point weights are called, by the `dtype` that an exporter writes them in.
FLOATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Limits that are stated as a lowest and a highest value, which exporters take as `opset_range`.
HOST, DEVICE, CUDA = "host", "device", "cuda"
RANGES = ("onnxruntime", "opset", "ir_version")
TWIN = "what cost is compared with"
EMULATED = "emulated"
PAIRS = "seq2seq-lm"
ONNX, ENGINE = "onnx", "tensorrt-engine"
# The stages whose names say more than the section of their parameters does.
VALIDATORS = {EMULATED: "validate.emulated_arm"}


class Branch:
    """One leaf in the making: a target of a recipe, or one cell of it.

    model, source, reference: names of nodes in the draft: the recipe's model, what the target takes, and what
    its quality is held against.
    """

    def __init__(
        self,
        draft: Draft,
        recipe: Recipe,
        target: Target,
        cell: Cell,
        model: str,
        source: str,
        reference: str,
    ) -> None:
        self._draft = draft
        self._recipe = recipe
        self._target = target
        self._cell = cell
        self._model = model
        self._source = source
        self._reference = reference
        self._name = cell_name(target.name, cell.labels())
        self._profile = profiles.get(target.profile, target.origin)
        self._rules = self._profile.chosen(draft.facts)
        self._settings = self._with_limits(self._layered(self._rules))
        self._where = target.place if target.takes else target.origin

    def grow(self) -> Leaf:
        """Adds the target's nodes; raises RecipeError for what the target or its profile does not take."""
        kind = self._draft.builder.output_kind(self._source)
        kinds = (CHECKPOINT, QUANTIZED, ADAPTER, *base.get("validate.quality").inputs["artifact"])
        if kind not in kinds:
            raise RecipeError(
                f"targets.{self._target.name}: {self._source} makes {kind}, not {' or '.join(kinds)}",
                where=self._where,
                fix=f"let the target take another node: {FROM}: NODE",
            )
        shipped = self._source if kind == ADAPTER else None
        if shipped is not None:
            self._source, kind = self._folded(shipped), CHECKPOINT
        is_artifact = kind not in (CHECKPOINT, QUANTIZED)
        plain = self._twin(self._source) if is_artifact else None
        if plain is None and self._stage(EXPORT, self._settings).output in base.RUNNABLE:
            plain = self._plain()
        reference = self._measure("reference", {"model": self._reference})
        model = self._quantize() if kind == CHECKPOINT else self._unquantized()
        artifact = self._unexported() if is_artifact else self._artifact(model)
        floats = self._floats(artifact)
        width, method = self._weights(model)
        width = floats if method == NONE else width
        self._check_accepted(width, method)
        self._check_limits_of_device((width, floats))
        quality = self._measure("quality", {"artifact": artifact, "reference": reference})
        # What nothing here runs is compared with nothing: its twin would be built in vain.
        twin = plain or artifact
        sides = {"artifact": artifact, "reference": twin, "source": self._model}
        cost = self._measure("cost", sides if shipped is None else {**sides, SHIPPED: shipped})
        emulated = self._emulated(artifact, reference)
        added = self._added_metrics(quality)
        gates = self._gates(width)
        require_measured(gates, added)
        limits = self._profile.limits
        runtimes = {"onnxruntime": limits.onnxruntime, **(limits.runtimes or {})}
        return Leaf(
            self._name,
            self._profile.name,
            shipped or artifact,
            quality,
            cost,
            gates,
            {name: versions for name, versions in runtimes.items() if versions and shipped is None},
            cell_of=self._target.name if self._cell.settings else None,
            cell=self._cell.labels(),
            emulated=emulated,
        )

    def _emulated(self, artifact: str, reference: str) -> str | None:
        """The node that runs the artifact on emulated processors, where the profile says that it can be."""
        kind = self._draft.builder.output_kind(artifact)
        is_possible = EMULATED in self._profile.verify.places_of(kind)
        if not is_possible or self._draft.facts["task"] == PAIRS:
            self._refuse_own(EMULATED)
            return None
        return self._measure(EMULATED, {"artifact": artifact, "reference": reference})

    def _folded(self, adapter: str) -> str:
        """Adds what an adapter makes of its base: of the model it was taken from, else the recipe's.

        Raises RecipeError for a target that would quantize it.
        """
        method = self._settings.get((QUANTIZE, METHOD))
        if method is None or method.value != NONE:
            raise RecipeError(
                f"targets.{self._target.name}: the profile {self._profile.name} quantizes, and {adapter} "
                "makes an adapter, which is delivered in floating point",
                where=self._where,
                fix=f"write profile: {ADAPTER}, or let the target take a node that folds it (fuse.lora)",
            )
        builder, stage = self._draft.builder, base.get(FUSE_LORA)
        below = builder.node(adapter).inputs.get("base", self._model)
        values: dict[str, object] = {"adapters": [{"adapter": f"{ADAPTER}1"}], "dtype": "float32"}
        if builder.output_kind(below) == QUANTIZED:
            values["dequantize"] = True
        settings = {name: Setting((FUSE, name), value, self._where) for name, value in values.items()}
        return self._draft.add(
            f"{FUSE}@{self._name}", stage, settings, {"model": below, f"{ADAPTER}1": adapter},
            target=self._name, reason=f"what {below} computes with {adapter}, to measure it",
            spare=f"{FUSE}@{self._name}/{adapter}", where=self._where,
        )  # fmt: skip

    def _layered(self, rules: Sequence[Rule]) -> Settings:
        """The settings that hold for the target, over those of its profile."""
        recipe, target = self._recipe, self._target
        inner = [*(rule.settings for rule in rules), recipe.settings, target.settings]
        return resolve([*inner, *outer_layers(recipe.overrides, target.name)])

    def _before(self) -> Settings:
        """The settings of the export whose output the target's own export takes."""
        inner = [*(rule.settings for rule in self._rules), self._target.via]
        return self._with_limits(resolve(inner))

    def _with_limits(self, settings: Settings) -> Settings:
        """The settings with the profile's limits for an exporter that takes them (`opset_range`)."""
        known = schema.fields(self._stage(EXPORT, settings).params)
        origin = f"profile {self._profile.name} (limits)"
        limits = self._limits().items()
        added = [Setting((EXPORT, name), limit, origin) for name, limit in limits if name in known]
        return {**{setting.path: setting for setting in added}, **settings}

    def _limits(self) -> dict[str, object]:
        """What an exporter may be told of the target's device, by the name of its parameter."""
        stated = {name: limit for name, limit in vars(self._profile.limits).items() if limit is not None}
        ranges = {f"{name}_range": stated.pop(name) for name in RANGES if name in stated}
        sizes = {name: list(getattr(self._profile.verify, name) or ()) for name in ("batch", "sequence")}
        return {**stated, **ranges, **{name: size for name, size in sizes.items() if size}}

    def _stage(self, family: str, settings: Settings) -> base.Stage[Any]:
        return stage_of(family, settings, family, f"the target {self._target.name}", self._target.origin)

    def _quantize(self) -> str:
        """The node whose output has the target's weights: the source itself for the method none."""
        method = self._settings.get((QUANTIZE, METHOD))
        if method is not None and method.value == NONE:
            for name, setting in section(self._settings, QUANTIZE).items():
                what = f"{QUANTIZE}.{name} has no effect: {self._target.name} does not quantize"
                fix = f"set {QUANTIZE}.{METHOD} too, or take it out"
                raise RecipeError(what, where=setting.origin, fix=fix)
            return self._source
        stage = self._stage(QUANTIZE, self._settings)
        because = self._because(QUANTIZE)
        origin = method.origin if method is not None else self._target.origin
        reason = f"{origin}: {because}" if because else f"asked for by {origin}"
        return self._add(f"{QUANTIZE}@{self._name}", QUANTIZE, stage, self._source, reason, self._name)

    def _unquantized(self) -> str:
        """The source, for a target that takes what is quantized already."""
        self._refuse_own(QUANTIZE)
        return self._source

    def _unexported(self) -> str:
        """The source, for a target that takes what its runtime opens."""
        self._refuse_own(EXPORT)
        return self._source

    def _refuse_own(self, family: str) -> None:
        """Raises RecipeError for a value that was given this target, where it adds no stage of the family."""
        overrides = (
            o for o in self._recipe.overrides if o.target and names_target(o.target, self._target.name)
        )
        for setting in (*self._target.settings, *(override.setting for override in overrides)):
            if setting.path[0] == family:
                what = f"{'.'.join(setting.path)} has no effect: {self._target.name} takes {self._source}"
                raise RecipeError(what, where=setting.origin, fix=f"take it out, or set it on {self._source}")

    def _artifact(self, model: str) -> str:
        """Adds the export of ``model`` that is delivered."""
        because = self._because(EXPORT)
        reason = f"what runs on {self._name}, through {self._runtime()}"
        return self._exported(model, self._name, f"{reason}: {because}" if because else reason, self._name)

    def _runtime(self) -> str:
        """What opens the artifact: the profile's runtime, or another for what is delivered beside its own."""
        kind, own = self._stage(EXPORT, self._settings).output, self._profile.runtime
        # A graph in ONNX is what several runtimes take; an engine is TensorRT's.
        is_own = kind not in base.RUNNABLE or kind == ENGINE or (kind == ONNX and own not in base.RUNNABLE)
        return own if is_own else kind

    def _plain(self) -> str:
        """Adds the export of the unmodified model, for the same runtime."""
        return self._exported(self._reference, "reference", TWIN)

    def _exported(self, source: str, name: str, reason: str, target: str | None = None) -> str:
        """Adds the export of ``source``, and before it that of the graph that it takes, if it takes one."""
        stage = self._stage(EXPORT, self._settings)
        kinds = {kind for taken in stage.inputs.values() for kind in taken}
        if self._draft.builder.output_kind(source) not in kinds:
            before = self._before()
            first = self._stage(EXPORT, before)
            if first.output in kinds:
                why = f"what {stage.name} compiles"
                source = self._add(f"{GRAPH}@{name}", EXPORT, first, source, why, target, before)
        return self._add(f"{EXPORT}@{name}", EXPORT, stage, source, reason, target)

    def _because(self, family: str) -> str:
        """Why a profile's rules chose the method of a family; empty where somebody else did."""
        method = self._settings.get((family, METHOD))
        if method is None:
            return ""
        # By where it was written: what is delivered beside a target's own is a setting of another name there.
        stated = (
            rule for rule in reversed(self._rules) for each in rule.settings if each.origin == method.origin
        )
        return next((rule.because for rule in stated), "")

    def _add(
        self,
        name: str,
        family: str,
        stage: base.Stage[Any],
        source: str,
        reason: str,
        target: str | None = None,
        settings: Settings | None = None,
    ) -> str:
        """Adds the target's node of a family, with ``source`` as its only input."""
        settings = self._settings if settings is None else settings
        if len(stage.inputs) != 1:
            where = settings[family, METHOD].origin
            raise RecipeError(f"stage {stage.name} takes {len(stage.inputs)} inputs, not one", where=where)
        return self._draft.add(
            name,
            stage,
            section(settings, family),
            {next(iter(stage.inputs)): source},
            target=target,
            reason=reason,
            spare=f"{name}/{self._name}",
            where=self._where,
        )

    def _twin(self, artifact: str) -> str:
        """The unmodified model, exported as the recipe's own node that the target takes is."""
        node = self._draft.builder.node(artifact)
        stage = base.get(node.stage)
        if len(stage.inputs) != 1:
            return self._plain()
        self._check_limits(node, stage)
        inputs = {next(iter(stage.inputs)): self._reference}
        twin = replace(node, name=f"{EXPORT}@reference", inputs=inputs, reason=TWIN)
        return self._draft.builder.add(twin, f"{twin.name}/{self._name}", self._where)

    def _check_limits(self, node: Node, stage: base.Stage[Any]) -> None:
        """Raises RequirementError when the target's runtime does not take what ``node`` exports."""
        known = schema.fields(stage.params)
        limits = {name: limit for name, limit in self._limits().items() if name in known}
        params = replace(node.params, **limits)  # type: ignore[type-var]
        unmet = [each for each in (stage.requires(params) if stage.requires else ()) if not each.met]
        if unmet:
            what = f"the target {self._target.name} needs {unmet[0].name}, which {node.name} does not keep"
            raise RequirementError(what, where=self._where, fix=unmet[0].fix)

    def _measure(self, kind: str, inputs: Mapping[str, str]) -> str:
        """Adds one of the validate stages; the reference is shared where its parameters are the same."""
        owner = self._name if "artifact" in inputs else None
        name = f"{kind}@{self._name}" if owner else kind
        reason = f"measures {inputs['artifact']}" if owner else "what quality is compared with"
        stage = base.get(VALIDATORS.get(kind, f"validate.{kind}"))
        where = self._recipe.origins.get(kind, self._where)
        settings = {**self._placed(kind, inputs.get("artifact")), **section(self._settings, kind)}
        added = self._draft.add(
            name, stage, settings, inputs,
            target=owner, reason=reason, spare=f"{name}/{self._name}", where=where,
        )  # fmt: skip
        self._check_text(self._draft.builder.node(added))
        return added

    def _placed(self, kind: str, artifact: str | None) -> dict[str, Setting]:
        """What a stage that measures is told of where the artifact runs: quality here where that can be, cost
        on the device where the profile has one.
        """
        if artifact is None:
            return {}
        verify, form = self._profile.verify, self._draft.builder.output_kind(artifact)
        places = verify.places_of(form)
        if self._floats(artifact) == FLOATS["bfloat16"]:
            places = tuple(place for place in places if place != HOST)  # no processor's kernels take it
        if form in base.DELIVERED:
            return {"format": Setting((kind, "format"), form, f"profile {self._profile.name}")}
        if DEVICE not in places or (kind == "quality" and HOST in places):
            return {}
        origin = f"profile {self._profile.name} (verify)"
        values: dict[str, object] = {
            "device": verify.device or CUDA, "format": form, "sm": self._profile.limits.sm or 0,
        }  # fmt: skip
        if kind == "cost" and len(verify.batch or ()) * len(verify.sequence or ()) > 1:
            values |= {"sweep_batch": list(verify.batch or ()), "sweep_sequence": list(verify.sequence or ())}
        return {name: Setting((kind, name), value, origin) for name, value in values.items()}

    def _check_text(self, node: Node) -> None:
        """Raises DataError when the evaluation text is shorter than one of the stage's windows."""
        text = getattr(node.params, EVALUATION, None)
        if text is not None:
            window = int(getattr(node.params, "window", 0))
            context = int(str(self._draft.facts.get("context", window)))
            check_length(Path(text), min(window, context), node.origins[EVALUATION])

    def _weights(self, model: str) -> tuple[str, str]:
        """The width of the weights that ``model`` holds, and the method that quantized them, or none; empty
        where another program has.
        """
        builder = self._draft.builder
        node = builder.node(model)
        while not node.stage.startswith(f"{QUANTIZE}."):
            if node.stage == LOAD_QUANTIZED:
                return str(self._draft.sources.get(node.name, self._draft.facts)[PACKED_WIDTH]), ""
            if builder.output_kind(node.name) == CHECKPOINT or len(node.inputs) != 1:
                return PLAIN, NONE
            node = builder.node(next(iter(node.inputs.values())))
        method, bits = node.stage.partition(".")[2], getattr(node.params, "bits", None)
        before = node.inputs.get("model")
        if before is not None and builder.output_kind(before) == QUANTIZED:
            # Codes that are trained further are as wide as they were.
            return self._weights(before)[0], method
        return (f"int{bits}" if bits is not None else method), method

    def _check_accepted(self, width: str, method: str) -> None:
        """Raises RecipeError when the target's profile takes neither the method nor the width."""
        accepts, target = self._profile.accepts, self._target
        setting = self._settings.get((QUANTIZE, "bits"), self._settings.get((QUANTIZE, METHOD)))
        where = self._where if target.takes or setting is None else setting.origin
        for what, value, valid in (
            (f"{QUANTIZE}.{METHOD}", method, accepts.quantize),
            ("weights of", width, accepts.weights),
        ):
            if valid is not None and value and value not in valid:
                fix = (
                    f"it takes {', '.join(valid)}; set others under targets.{target.name}, or drop the target"
                )
                raise RecipeError(
                    f"the target {target.name} does not take {what} {value}", where=where, fix=fix
                )

    def _floats(self, artifact: str) -> str:
        """What floating-point weights are in the artifact: the `dtype` of the export that writes them."""
        node = self._draft.builder.node(artifact)
        while not hasattr(node.params, "dtype") and self._draft.builder.output_kind(node.name) not in (
            CHECKPOINT,
            QUANTIZED,
        ):
            if len(node.inputs) != 1:
                return PLAIN
            node = self._draft.builder.node(next(iter(node.inputs.values())))
        is_export = node.stage.startswith(f"{EXPORT}.")
        return FLOATS.get(str(getattr(node.params, "dtype", "")), PLAIN) if is_export else PLAIN

    def _check_limits_of_device(self, widths: tuple[str, ...]) -> None:
        """Raises RequirementError, with the rule, for what the profile's device cannot hold or compute."""
        profile, facts = self._profile, self._draft.facts
        sizes = {
            name: self._bytes(name, value)
            for name in ("device_memory", "artifact_size")
            if (value := getattr(profile.limits, name)) is not None
        }
        context = facts.get("context")
        demand = Demand(
            widths, int(str(facts.get("parameters", 0))), int(str(context)) if context is not None else None
        )
        for each in broken(demand, profile.limits, profile.verify, sizes):
            raise RequirementError(
                f"the target {self._target.name} breaks the rule {each.rule}: {each.what}",
                where=self._where,
                fix=each.fix,
            )

    def _bytes(self, name: str, value: int | str) -> int:
        try:
            return int(parse_quantity(value, "bytes"))
        except ValueError as error:
            where, fix = f"profile {self._profile.name}", "write a size such as 24GB"
            raise RecipeError(f"limits.{name}: {error}", where=where, fix=fix) from None

    def _added_metrics(self, quality: str) -> tuple[str, ...]:
        """The metrics of other packages that are measured; raises RecipeError for what cannot be."""
        node = self._draft.builder.node(quality)
        added: tuple[str, ...] = getattr(node.params, "metrics", ())
        require_addable(added, str(self._draft.facts["task"]), node.origins.get("metrics"))
        return added

    def _is_changed(self) -> bool:
        """Whether what the target takes is another network than its reference, before it is quantized."""
        return self._origin(self._source) != self._origin(self._reference)

    def _origin(self, name: str) -> str:
        """The first node that computes what ``name`` does."""
        node = self._draft.builder.node(name)
        while base.get(node.stage).same_function and len(node.inputs) == 1:
            node = self._draft.builder.node(next(iter(node.inputs.values())))
        return node.name

    def _gates(self, width: str) -> tuple[GateRule, ...]:
        """The target's gates: those of its profile for this width of weights, under those of the recipe."""
        facts = {**self._draft.facts, "weights": width, "changed": self._is_changed()}
        settings = self._layered(self._profile.default_gates(facts))
        rules = tuple(
            GateRule(path[1], path[2], setting.value, setting.origin)  # type: ignore[arg-type]
            for path, setting in settings.items()
            if path[0] == GATES
        )
        require_task(rules, str(self._draft.facts["task"]))
        return rules
