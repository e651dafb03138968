"""The ledger against its rules: never more than there is, exclusive alone, nobody waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ingot.pipeline.ledger import Capacity, Claim, Grant, Ledger

CLAIMS = st.lists(
    st.builds(lambda memory, exclusive: (memory, exclusive), st.integers(0, 150), st.booleans()), max_size=12
).map(lambda pairs: [Claim(f"n{i}", memory, exclusive) for i, (memory, exclusive) in enumerate(pairs)])


def check(ledger: Ledger) -> None:
    grants = ledger.grants.values()
    assert sum(grant.cores for grant in grants) <= ledger.capacity.cores
    assert sum(grant.memory_bytes for grant in grants) <= ledger.capacity.memory_bytes
    assert all(grant.cores >= 1 for grant in grants)
    assert len(grants) == 1 or not any(grant.exclusive for grant in grants)


@given(CLAIMS, st.integers(1, 8), st.data())
def test_every_claim_is_granted_in_the_end_and_the_rules_hold_at_every_step(
    claims: list[Claim], cores: int, data: st.DataObject
) -> None:
    ledger = Ledger(Capacity(cores, 100))
    waiting = {claim.node: claim for claim in claims}
    while waiting or ledger.grants:
        ledger = ledger.admit(waiting.values())
        check(ledger)
        assert ledger.grants, "something waits, and nothing runs"
        for node in ledger.grants:
            waiting.pop(node, None)
        ledger = ledger.release(data.draw(st.sampled_from(sorted(ledger.grants))))


def test_nodes_that_start_together_share_the_cores_and_the_first_gets_the_odd_one() -> None:
    ledger = Ledger(Capacity(5, 100)).admit([Claim("a", 10), Claim("b", 20)])
    assert dict(ledger.grants) == {"a": Grant(3, 10), "b": Grant(2, 20)}


def test_a_node_that_starts_alone_gets_every_core() -> None:
    assert Ledger(Capacity(5, 100)).admit([Claim("a", 10)]).grants["a"].cores == 5


def test_a_claim_that_does_not_fit_waits_while_a_later_one_that_fits_starts() -> None:
    ledger = Ledger(Capacity(4, 100), {"running": Grant(1, 60)}).admit([Claim("big", 50), Claim("small", 40)])
    assert set(ledger.grants) == {"running", "small"}


def test_a_claim_above_the_whole_memory_runs_alone() -> None:
    ledger = Ledger(Capacity(4, 100)).admit([Claim("huge", 1000), Claim("small", 1)])
    assert dict(ledger.grants) == {"huge": Grant(4, 100)}


def test_an_exclusive_node_starts_when_nothing_else_can_and_keeps_others_out() -> None:
    empty = Ledger(Capacity(4, 100))
    both = [Claim("timing", 1, exclusive=True), Claim("work", 1)]
    assert set(empty.admit(both).grants) == {"work"}
    assert empty.admit(both).admit(both[:1]).grants.keys() == {"work"}
    alone = empty.admit(both[:1])
    assert dict(alone.grants) == {"timing": Grant(4, 100, exclusive=True)}
    assert alone.admit(both[1:]) == alone
    assert set(alone.release("timing").admit(both[1:]).grants) == {"work"}
