"""Who may run beside whom: the cores and the memory of a machine, and what running nodes hold of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Capacity:
    """What an executor has: cores, and bytes of memory for all nodes together."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Claim:
    """What a waiting node asks for; exclusive: nothing may run beside it, for it measures time."""

    node: str
    memory_bytes: int
    exclusive: bool = False


@dataclass(frozen=True)
class Grant:
    """What a running node holds; its cores are the threads it may start."""

    cores: int
    memory_bytes: int
    exclusive: bool = False


@dataclass(frozen=True)
class Ledger:
    """A capacity and what is granted of it, by node; changes make new ledgers."""

    capacity: Capacity
    grants: Mapping[str, Grant] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def free(self) -> Capacity:
        """What nobody holds."""
        return Capacity(
            self.capacity.cores - sum(grant.cores for grant in self.grants.values()),
            self.capacity.memory_bytes - sum(grant.memory_bytes for grant in self.grants.values()),
        )

    def admit(self, waiting: Iterable[Claim]) -> Ledger:
        """The ledger with grants for those of ``waiting`` that may start now, earlier ones first.

        Every node gets at least one core, and those that start together share the free ones evenly. A claim
        above the whole capacity counts as all of it: it runs, with no other's memory at risk. Exclusive nodes
        start only when nothing else runs or can, one by one; so every claim is granted sooner or later.
        """
        if any(grant.exclusive for grant in self.grants.values()):
            return self
        claims = tuple(waiting)
        chosen = self._fitting(claim for claim in claims if not claim.exclusive)
        if chosen:
            return self._share(chosen)
        alone = next((claim for claim in claims if claim.exclusive), None)
        if alone is None or self.grants:
            return self
        return self._with(
            {alone.node: Grant(self.capacity.cores, self.capacity.memory_bytes, exclusive=True)}
        )

    def release(self, node: str) -> Ledger:
        """The ledger without the grant of ``node``."""
        return replace(
            self,
            grants=MappingProxyType({name: grant for name, grant in self.grants.items() if name != node}),
        )

    def _fitting(self, claims: Iterable[Claim]) -> list[Claim]:
        free = self.free
        chosen: list[Claim] = []
        memory_bytes = free.memory_bytes
        for claim in claims:
            asked = min(claim.memory_bytes, self.capacity.memory_bytes)
            if len(chosen) < free.cores and asked <= memory_bytes:
                chosen.append(replace(claim, memory_bytes=asked))
                memory_bytes -= asked
        return chosen

    def _share(self, chosen: list[Claim]) -> Ledger:
        cores, left = divmod(self.free.cores, len(chosen))
        return self._with(
            {
                claim.node: Grant(cores + (position < left), claim.memory_bytes)
                for position, claim in enumerate(chosen)
            }
        )

    def _with(self, grants: Mapping[str, Grant]) -> Ledger:
        return replace(self, grants=MappingProxyType({**self.grants, **grants}))
