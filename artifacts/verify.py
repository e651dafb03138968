"""Reads every byte of the store again: the check that finds what disks change behind a file's back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import actions, stats
from .errors import CorruptError, StoreError
from .files import storage
from .tree import ForeignError, check, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .store import Store


@dataclass(frozen=True)
class Damage:
    """A tree that was not what its name says, and was set aside."""

    digest: str
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    trees, size_bytes: how much was read and found sound.  corrupt: set aside, and rebuilt when next needed.
    unreadable: keys whose action records are torn or foreign.  dangling: keys whose artifact is not here.
    foreign: artifacts another version of Ingot wrote, left alone.
    """

    trees: int
    size_bytes: int
    corrupt: tuple[Damage, ...]
    unreadable: tuple[str, ...]
    dangling: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was damaged."""
        return not self.corrupt and not self.unreadable


def verify(
    store: Store, digests: Iterable[str] | None, progress: Callable[[int, int, str], None] | None
) -> VerifyReport:
    """Hashes the artifacts called ``digests`` (None: all) and reads every action record.

    Corrupt trees are set aside. progress(done, total, digest) is called before each tree. Raises StoreError
    when a named artifact is not in the store.
    """
    with store.shared_use():
        here = store.digests()
        wanted = here if digests is None else list(digests)
        for digest in set(wanted) - set(here):
            raise StoreError(f"there is no artifact {digest}", where=str(store.root))
        corrupt, foreign, sizes = [], [], []
        for number, digest in enumerate(wanted):
            if progress is not None:
                progress(number, len(wanted), digest)
            try:
                sizes.append(_verify_tree(store, digest))
            except ForeignError:
                foreign.append(digest)
            except CorruptError as error:
                store.quarantine(digest, error.what)
                corrupt.append(Damage(digest, error.what))
        folder = store.root / "actions"
        records = {key: actions.read(folder, key) for key in actions.keys(folder)}
    left = set(here) - {damage.digest for damage in corrupt}
    return VerifyReport(
        trees=len(sizes),
        size_bytes=sum(sizes),
        corrupt=tuple(corrupt),
        unreadable=tuple(key for key, action in records.items() if action is None),
        dangling=tuple(key for key, action in records.items() if action and action.output not in left),
        foreign=tuple(foreign),
    )


def _verify_tree(store: Store, digest: str) -> int:
    tree = store.trees / digest
    with storage(tree):
        record = read_record(tree, digest)
        seen = check(tree, record, {})
    entry = store.stat_entry(digest)
    if stats.load_tree(entry) != seen:
        stats.remember_tree(entry, seen)
    return record.size_bytes
