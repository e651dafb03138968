"""Measures a delivery again, on the machine at hand: what `ingot validate` does.

    DELIVERY/manifest.json          what was to be measured, which bounds hold; never changed
    DELIVERY/validation/            the reference's predictions, where the delivery holds them
    DELIVERY/verifications/ID.json  what was found, where, and how it was judged; one a run

Quality is held against the reference's predictions, as in a run. Cost is that of the delivery alone, unless
the reference's artifact is named to take turns with: without it, bounds on a change of cost are
`inconclusive`. What is for phones also runs on emulated processors where their sandbox is set up; where it is
not, what would have passed is `unverified`, and says how to set it up.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..artifacts import schema
from ..artifacts.digest import digest_file
from ..artifacts.errors import CorruptError, InputError, RequirementError, StageError
from ..artifacts.files import check_relative, storage, write_whole
from ..artifacts.manifest import Artifact, ArtifactRecord, FileRecord
from ..artifacts.store import Store
from ..stages import base
from ..stages.base import Context
from ..stages.model.logits_store import DESCRIPTION as PREDICTIONS
from ..stages.model.tokenizer import checked_tokenizer
from ..stages.validate.measures import MEASUREMENTS_FILE, SAMPLES_FILE
from ..targets.host import probe
from ..targets.runtimes.opening import format_of, prepare, read_session
from . import gate, measurements
from .delivery_manifest import MANIFEST, VERIFICATIONS, check_json, read_manifest
from .evidence import DIRECTORY
from .gate import GateReport
from .graph import GateRule
from .journal import new_run_id, utc_now
from .measurements import Emulated, Measurements
from .report.model import metric_summary
from .rules import read_bound
from .run import environment

SCHEMA = "ingot/verification/v1"
PREPARING_LOG = "preparing.log"
QUALITY, COST, EMULATED = "validate.quality", "validate.cost", "validate.emulated_arm"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Options:
    """How a delivery is measured.

    reference: a directory of the reference's predictions, in place of those that the delivery holds or the
    store has.  twin: the directory of the reference's artifact, which cost takes turns with.  store: where
    predictions are looked for.  threads: of the runtime; all physical cores when 0.
    """

    reference: Path | None = None
    twin: Path | None = None
    store: Store | None = None
    threads: int = 0


@dataclass(frozen=True)
class Verification:
    """What was found. path: of its file.  notes: what must be said of how it was measured.  emulated: on
    emulated processors.  explanation: what is missing where it is `unverified`, and what to do; else empty.
    """

    id: str
    path: Path
    target: str
    format: str
    verdict: GateReport
    environment: Mapping[str, str]
    notes: tuple[str, ...]
    document: Mapping[str, Any]
    emulated: tuple[Emulated, ...] = ()
    explanation: str = ""

    @property
    def exit_code(self) -> int:
        """As that of `ingot gate`."""
        return gate.EXIT_CODES[self.verdict.status]


def validate(
    delivery: Path, options: Options, progress: Progress = lambda _done, _total, _what: None
) -> Verification:
    """Measures the delivery in a directory, judges it by the bounds in its manifest, and records both.

    Raises InputError for a directory that is no delivery or says nothing of how it is measured, CorruptError
    for files that are not what was delivered, RequirementError for a device or library that is missing here,
    and what the measuring stages raise; nothing is written then.
    """
    manifest, data = _manifest(delivery)
    plan = _plan(manifest, delivery)
    form = format_of(delivery)
    # A delivery may be anybody's: its tokenizer has to pass what intake asks of a checkpoint's.
    checked_tokenizer(delivery, int(read_session(delivery)["vocabulary"]))
    artifact = _artifact(delivery, manifest)
    reference = _reference(delivery, plan, options)
    started, clock = utc_now(), time.monotonic()
    notes = [note for note in (_prepared(delivery),) if note]
    with tempfile.TemporaryDirectory(prefix="ingot-validate-") as scratch:
        room = _Room(
            Store.open(Path(scratch) / "store"), Path(scratch), options.threads, progress, notes.append
        )
        quality = room.measure(QUALITY, plan["quality"], {"artifact": artifact, "reference": reference})
        source = _stand_in("checkpoint", facts={"weight_bytes": plan["source_weight_bytes"]})
        twin = {"reference": _stand_in("onnx", options.twin)} if options.twin else {}
        cost = room.measure(COST, plan["cost"], {"artifact": artifact, "source": source, **twin})
        emulated, lacking = room.emulate(plan.get("emulated"), artifact, reference)
    bounds = [read_bound(GateRule(**rule)) for rule in plan["gates"]]
    verdict = gate.evaluate(bounds, quality.found, cost.found)
    if lacking and verdict.status == "pass":
        verdict = replace(verdict, status="unverified")
    name = new_run_id()
    facts = environment(probe())
    document = {
        "schema": SCHEMA,
        "id": name,
        "created": started,
        "seconds": round(time.monotonic() - clock, 3),
        "ingot": __version__,
        "delivery": {
            "name": manifest["name"],
            "artifact": manifest["artifact"],
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
        },
        "environment": dict(facts),
        "status": verdict.status,
        "exit_code": gate.EXIT_CODES[verdict.status],
        "measurements": {key: metric_summary(metric) for key, metric in verdict.metrics.items()},
        "checks": [check_json(check) for check in verdict.checks],
        "explanation": lacking,
        "notes": notes,
        "quality": quality.json(),
        "cost": cost.json(),
    }
    if emulated:
        document["emulated"] = emulated.json()
    path = delivery / VERIFICATIONS / f"{name}.json"
    with storage(path):
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    found = emulated.found.emulated if emulated else ()
    return Verification(
        name, path, str(manifest["target"]), form, verdict, facts, tuple(notes), document, found, lacking
    )


def _prepared(delivery: Path) -> str:
    """What had to be made for this machine; when that fails, what a compiler said is kept."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return prepare(delivery)
    except StageError as error:
        log = delivery / PREPARING_LOG
        with storage(log):
            log.write_text(said.getvalue(), "utf-8")
        raise StageError(error.what, where=str(log), fix=error.fix) from None


@dataclass(frozen=True)
class _Measured:
    """One stage's measurements, as the gate reads them and as they were written."""

    found: Measurements
    document: bytes
    samples: bytes

    def json(self) -> dict[str, Any]:
        """Both files as they are."""
        return {"measurements": json.loads(self.document), "samples": json.loads(self.samples)}


@dataclass(frozen=True)
class _Room:
    """Where stages run outside of a run: a store of its own that vanishes, and this process."""

    store: Store
    scratch: Path
    threads: int
    progress: Progress
    note: Callable[[str], None]

    def measure(self, stage: str, params: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> _Measured:
        found = base.get(stage)
        built = schema.build(found.params, params, prefix=stage)
        if self.threads and hasattr(built, "threads"):
            built = replace(built, threads=self.threads)
        missing = _missing(found, built)
        if missing:
            raise RequirementError(
                "this machine lacks " + ", ".join(each.name for each in missing),
                fix="; ".join(dict.fromkeys(each.fix for each in missing)),
            )
        with self.store.outbox() as output:
            threads = self.threads or probe().cores
            found.run(Context(built, inputs, output, self.scratch, 0, threads, self.progress, self.note))
            parts = [(output.payload / name).read_bytes() for name in (MEASUREMENTS_FILE, SAMPLES_FILE)]
        return _Measured(measurements.parse(*parts), *parts)

    def emulate(
        self, params: Mapping[str, Any] | None, artifact: Artifact, reference: Artifact
    ) -> tuple[_Measured | None, str]:
        """What emulated processors measure, or what that lacks here and how it is set up; neither where the
        manifest asks for none.
        """
        if params is None:
            return None, ""
        stage = base.get(EMULATED)
        missing = _missing(stage, schema.build(stage.params, params, prefix=EMULATED))
        if missing:
            return None, "; ".join(f"this machine lacks {each.name}: {each.fix}" for each in missing)
        return self.measure(EMULATED, params, {"artifact": artifact, "reference": reference}), ""


def _missing(stage: base.Stage[Any], params: Any) -> list[base.Requirement]:
    return [each for each in (stage.requires(params) if stage.requires else ()) if not each.met]


def _manifest(delivery: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest, and its bytes; raises InputError where there is none."""
    found = read_manifest(delivery)
    if found is None:
        raise InputError(
            f"there is no {MANIFEST} of a delivery",
            where=str(delivery),
            fix="give a delivery's directory, such as ingot-out/cpu",
        )
    return found, (delivery / MANIFEST).read_bytes()


def _plan(manifest: Mapping[str, Any], delivery: Path) -> dict[str, Any]:
    """What the manifest says under `validation`; raises InputError where that cannot be followed."""
    plan = manifest.get("validation")
    sound = isinstance(plan, dict) and all(
        isinstance(plan.get(name), kind)
        for name, kind in (("quality", dict), ("cost", dict), ("gates", list), ("source_weight_bytes", int))
    )
    if not sound or not isinstance(plan, dict):
        raise InputError(
            "its manifest does not say how it is to be measured",
            where=str(delivery / MANIFEST),
            fix="build the delivery again",
        )
    return plan


def _artifact(delivery: Path, manifest: Mapping[str, Any]) -> Artifact:
    """The delivered artifact where it lies; raises CorruptError for a file that is not what was delivered."""
    files = []
    for entry in manifest["files"]:
        record = FileRecord(check_relative(str(entry["path"])), int(entry["size"]), str(entry["sha256"]))
        place = delivery / record.path
        if not place.is_file() or place.stat().st_size != record.size or digest_file(place) != record.sha256:
            raise CorruptError(
                f"{record.path} is not what was delivered",
                where=str(delivery),
                fix="copy the delivery again, or build it again",
            )
        files.append(record)
    own = tuple(file for file in files if not file.path.startswith(f"{DIRECTORY}/"))
    return Artifact(str(manifest["artifact"]), ArtifactRecord(str(manifest["kind"]), own, {}), delivery)


def _reference(delivery: Path, plan: Mapping[str, Any], options: Options) -> Artifact:
    """The reference's predictions: those named, those delivered, or those of the store."""
    digest = plan.get("reference")
    place = options.reference or delivery / DIRECTORY
    if (place / PREDICTIONS).is_file():
        return _stand_in("logits", place)
    if options.reference is not None:
        raise InputError(
            f"there is no {PREDICTIONS}, so no predictions",
            where=str(options.reference),
            fix="give `validation/` of a delivery, or the payload of an artifact of kind logits",
        )
    known = options.store.artifact(str(digest)) if options.store is not None and digest else None
    if known is not None:
        return known
    raise InputError(
        "the delivery does not hold the reference's predictions, and the store has none of them",
        where=str(delivery),
        fix=f"copy trees/{digest}/payload from the store that built it, and name it with --reference",
    )


def _stand_in(kind: str, path: Path | None = None, facts: Mapping[str, object] | None = None) -> Artifact:
    """An input that no store has: where it lies, or what is known of it."""
    return Artifact("", ArtifactRecord(kind, (), facts or {}), path or Path())
