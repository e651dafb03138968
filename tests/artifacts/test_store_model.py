"""Any order of publishing, reading, damage, verification and collection, against a plain dictionary."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ingot.artifacts.digest import canonical_json, digest_json
from ingot.artifacts.files import remove_tree
from ingot.artifacts.manifest import Action, ArtifactRecord, FileRecord
from ingot.artifacts.store import Store

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
FACTS = st.dictionaries(st.text(), VALUES, max_size=4)
NAMES = st.sampled_from(["config.json", "model.safetensors", "sub/tokenizer.json", "ü"])
FILES = st.dictionaries(NAMES, st.binary(max_size=40), min_size=1)
KEYS = st.sampled_from(["k0", "k1", "k2"])


@given(FACTS, st.randoms())
def test_canonical_json_does_not_depend_on_the_order_of_keys(facts, random):
    items = list(facts.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(facts)


@given(FACTS)
def test_canonical_json_is_json_and_says_the_same(facts):
    data = canonical_json(facts)
    assert json.loads(data) == facts
    assert canonical_json(json.loads(data)) == data


@given(FACTS, FILES, st.randoms())
def test_an_artifact_record_survives_the_disk_and_does_not_depend_on_the_order_of_files(facts, files, random):
    records = [FileRecord(name, len(data), digest_json(name)) for name, data in files.items()]
    record = ArtifactRecord("kind", tuple(records), facts)
    random.shuffle(records)
    assert ArtifactRecord("kind", tuple(records), facts).digest == record.digest
    again = ArtifactRecord.from_json(json.loads(canonical_json(record.to_json())))
    assert again.digest == record.digest
    assert again.to_json() == record.to_json()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(FACTS, FACTS)
def test_an_action_survives_the_disk(store, preimage, observed):
    action = Action("k", "node", preimage, "0" * 64, observed)
    (store.root / "actions" / "k.json").unlink(missing_ok=True)
    store.record(action)
    assert store.read_action("k") == action


class StoreAgainstDictionary(RuleBasedStateMachine):
    """The store may forget what was damaged or collected; it may never give a wrong answer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ingot-model-"))
        self.store = Store.open(self.folder)
        self.trees: dict[str, dict[str, bytes]] = {}
        self.keys: dict[str, str] = {}

    def teardown(self) -> None:
        remove_tree(self.folder)

    @rule(files=FILES, facts=FACTS)
    def publish(self, files: dict[str, bytes], facts: dict[str, object]) -> None:
        self._publish(files, facts)

    @rule(files=FILES, key=KEYS)
    def build(self, files: dict[str, bytes], key: str) -> None:
        digest = self._publish(files, {})
        kept = self.store.record(Action(key, "node", {}, digest, {})).output
        first = self.keys.get(key)
        assert kept == (first if first in self.trees else digest)
        self.keys[key] = kept

    @rule(key=KEYS)
    def look_up(self, key: str) -> None:
        found = self.store.lookup(key)
        expected = self.keys.get(key)
        if expected in self.trees:
            assert found is not None
        if found is not None:
            assert found[0].output == found[1].digest == expected
            assert self._read(found[1].path) == self.trees[expected]

    @precondition(lambda self: self.trees)
    @rule(data=st.data(), harm=st.sampled_from(["flip", "remove", "add", "truncate"]))
    def damage(self, data: st.DataObject, harm: str) -> None:
        digest = data.draw(st.sampled_from(sorted(self.trees)))
        name = data.draw(st.sampled_from(sorted(self.trees[digest])))
        path = self.store.trees / digest / "payload" / name
        path.parent.chmod(0o755)
        path.chmod(0o644)
        content = path.read_bytes()
        time.sleep(0.01)  # the clock of the file system ticks
        if harm == "remove":
            path.unlink()
        elif harm == "add":
            (path.parent / "extra").write_bytes(b"")
        elif harm == "flip" and content:
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        else:
            path.write_bytes(content + b"!")
        del self.trees[digest]
        assert self.store.artifact(digest) is None

    @rule()
    def verify(self) -> None:
        assert self.store.verify().corrupt == ()
        self.store = Store.open(self.folder)

    @rule(bound=st.none() | st.integers(0, 5000))
    def collect(self, bound: int | None) -> None:
        report = self.store.gc(bound)
        reachable = set(self.keys.values())
        for digest in report.trees:
            assert bound is not None or digest not in reachable
            del self.trees[digest]
        assert report.within_limit or self.store.digests() == []
        self.keys = {key: digest for key, digest in self.keys.items() if key not in report.actions}

    @invariant()
    def holds_what_it_should(self) -> None:
        assert self.store.digests() == sorted(self.trees)
        assert list((self.folder / "tmp").iterdir()) == []

    def _publish(self, files: dict[str, bytes], facts: dict[str, object]) -> str:
        with self.store.outbox() as outbox:
            for name, content in files.items():
                with outbox.create(name) as file:
                    file.write(content)
            artifact = outbox.publish("kind", facts)
        self.trees[artifact.digest] = files
        assert self._read(artifact.path) == files
        return artifact.digest

    @staticmethod
    def _read(payload: Path) -> dict[str, bytes]:
        files = (path for path in payload.rglob("*") if path.is_file())
        return {path.relative_to(payload).as_posix(): path.read_bytes() for path in files}


StoreAgainstDictionary.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestStoreAgainstDictionary = StoreAgainstDictionary.TestCase
