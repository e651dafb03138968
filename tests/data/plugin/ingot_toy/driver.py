"""Executes graphs of toy stages: from a test, or as a process of its own that a test may kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ingot.artifacts import schema
from ingot.artifacts.digest import digest_json
from ingot.artifacts.errors import Interrupted
from ingot.artifacts.store import Store
from ingot.pipeline.execute import Decide, execute
from ingot.pipeline.graph import Graph, Node
from ingot.pipeline.journal import Journal, new_run_id
from ingot.pipeline.local import LocalExecutor
from ingot.pipeline.plan import Decision, State
from ingot.stages import base

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ingot.pipeline.events import Emit
    from ingot.pipeline.executor import Executor
    from ingot.pipeline.outcome import Outcome


def node(name: str, stage: str, inputs: Mapping[str, str] | None = None, **params: object) -> Node:
    return Node(name, stage, schema.build(base.get(stage).params, params), inputs or {})


def graph_of(*nodes: Node) -> Graph:
    return Graph({node.name: node for node in nodes}, {})


def decider(store: Store) -> Decide:
    """The plainest right keys: the stage, its parameters and the digests of what it takes."""

    def decide(node: Node, inputs: Mapping[str, str]) -> Decision:
        params = schema.to_plain(node.params, key_only=True)
        preimage = {"stage": node.stage, "params": params, "inputs": dict(inputs)}
        key = digest_json(preimage)
        found = store.lookup(key)
        if found:
            return Decision(node.name, State.HIT, "in the store", key, preimage, found[1], found[0])
        return Decision(node.name, State.RUN, "not in the store", key, preimage)

    return decide


def run(
    store: Store, *nodes: Node, executor: Executor | None = None, on_event: Emit = lambda _event: None
) -> Outcome:
    journal = Journal.create(store.run_dir(new_run_id()), {})
    executor = executor or LocalExecutor(cores=4)
    with journal:
        return execute(
            graph_of(*nodes),
            decide=decider(store),
            store=store,
            executor=executor,
            journal=journal,
            on_event=on_event,
        )


def main(store: str, nodes: str) -> int:
    """Executes nodes given as JSON, [[name, stage, inputs, params], ...]; prints each one's end as JSON."""
    built = [node(name, stage, inputs, **params) for name, stage, inputs, params in json.loads(nodes)]
    try:
        outcome = run(Store.open(Path(store)), *built)
    except Interrupted as error:
        return error.exit_code
    ends = {name: str(result.state) for name, result in outcome.results.items()}
    sys.stdout.write(json.dumps(ends))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
