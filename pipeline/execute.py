"""The scheduler: runs what a graph needs, in parallel where the machine allows, and survives what fails.

One thread, the caller's, decides, starts and tells; each running node has a thread that waits for it. All
they exchange is one queue, so journal and callback are called by the caller's thread alone.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..artifacts.errors import IngotError, Interrupted, to_json
from ..stages import base
from .build import NodeBuilder, failed, hit
from .events import Emit, Event, NodeFinished, RunFinished, RunStarted
from .ledger import Claim, Ledger
from .outcome import Ending, NodeResult, Outcome
from .plan import Decision, State

if TYPE_CHECKING:
    from ..artifacts.store import Store
    from .executor import Executor
    from .graph import Graph, Node
    from .journal import Journal

Decide = Callable[["Node", Mapping[str, str]], Decision]

# What a node is taken to need that nobody planned: Python with torch loaded, and three times its inputs,
# which is the bound our own stages keep. The ledger only orders nodes by it; the executor bounds them.
BASE_BYTES = 512 << 20
INPUT_FACTOR = 3
# What is predicted varies: data, threads and allocator alike.
EXPECTED_FACTOR = 1.25


def execute(
    graph: Graph,
    *,
    decide: Decide,
    store: Store,
    executor: Executor,
    journal: Journal,
    on_event: Emit = lambda _event: None,
) -> Outcome:
    """Brings every node of ``graph`` to an end: hit, built, failed, or blocked by one that failed.

    decide: what to do with a node, given the digests of its inputs by input name; it is asked when all of
    them are known, so an input that came out equal stops the rebuild below it.  on_event: called from this
    thread with every event, progress and heartbeats included.

    A failure is a result, not an exception. Ctrl-C and SIGTERM end every process that was started, are noted
    in the journal, and leave as Interrupted; the store keeps what was finished. The executor is closed then,
    and when anything unforeseen is raised; else it stays open.
    """
    run = _Run(graph, decide, store, executor, journal, on_event)
    try:
        with signals_as_interrupts(), store.shared_use():
            return run.to_the_end()
    except KeyboardInterrupt:
        fix = "run the same command again: what was finished is kept"
        raise Interrupted("the run was interrupted", fix=fix) from None


class _Run:
    """The state of one execution; every method but :meth:`_work` belongs to the caller's thread."""

    def __init__(
        self,
        graph: Graph,
        decide: Decide,
        store: Store,
        executor: Executor,
        journal: Journal,
        on_event: Emit,
    ) -> None:
        self._graph = graph
        self._decide = decide
        self._executor = executor
        self._journal = journal
        self._on_event = on_event
        self._queue: queue.SimpleQueue[Event | NodeResult | BaseException] = queue.SimpleQueue()
        self._builder = NodeBuilder(journal.run, journal.directory, store, executor, self._queue.put)
        self._sorter = TopologicalSorter({name: node.inputs.values() for name, node in graph.nodes.items()})
        self._order = {name: position for position, name in enumerate(graph.nodes)}
        self._ledger = Ledger(executor.capacity())
        self._waiting: dict[str, tuple[Claim, Decision]] = {}
        self._results: dict[str, NodeResult] = {}

    def to_the_end(self) -> Outcome:
        """Steps until every node has ended; whatever breaks that ends all processes first."""
        began = time.monotonic()
        self._emit(RunStarted(self._journal.run, tuple(self._graph.nodes)))
        try:
            self._sorter.prepare()
            while self._sorter.is_active():
                self._step()
        except KeyboardInterrupt:
            self._stop()
            self._emit(RunFinished(self._journal.run, "interrupted", time.monotonic() - began))
            raise
        except BaseException:
            self._executor.close()
            raise
        results = {name: self._results[name] for name in self._graph.nodes}
        outcome = Outcome(self._journal.run, MappingProxyType(results), time.monotonic() - began)
        self._emit(RunFinished(outcome.run, "failed" if outcome.failures else "done", outcome.seconds))
        return outcome

    def _step(self) -> None:
        """Settles what can be settled now, starts what the ledger admits, then waits for one message."""
        for name in sorted(self._sorter.get_ready(), key=self._order.__getitem__):
            self._settle(self._graph.nodes[name])
        self._start()
        if self._ledger.grants:
            self._receive(self._queue.get())

    def _settle(self, node: Node) -> None:
        """Ends a node that needs no work, or puts it where it waits for cores and memory."""
        broken = [name for name in node.inputs.values() if not self._results[name].has_output]
        if broken:
            self._finish(self._blocked_by(node, broken[0]))
            return
        try:
            decision = self._decide(node, self._inputs(node))
        except IngotError as error:
            self._finish(failed(node, None, error))
            return
        if decision.state is State.HIT and decision.action and decision.artifact:
            self._finish(hit(node, decision.action, decision.artifact, reason=decision.reason))
        elif decision.state is State.RUN:
            self._waiting[node.name] = (self._claim(node, decision), decision)
        elif decision.state is State.BLOCKED:
            self._finish(NodeResult(node.name, Ending.BLOCKED, decision.reason, key=decision.key))
        else:
            raise ValueError(f"{node.name} cannot be {decision.state} when all its inputs are known")

    def _start(self) -> None:
        admitted = self._ledger.admit(claim for claim, _ in self._waiting.values())
        for name in [name for name in admitted.grants if name not in self._ledger.grants]:
            _, decision = self._waiting.pop(name)
            node = self._graph.nodes[name]
            arguments = (node, decision, self._inputs(node), admitted.grants[name])
            threading.Thread(target=self._work, args=arguments, name=f"node {name}", daemon=True).start()
        self._ledger = admitted

    def _work(self, *arguments: object) -> None:
        """A node's own thread: builds it and sends what became of it, even what nobody foresaw."""
        try:
            self._queue.put(self._builder.build(*arguments))  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - it is raised again by the caller's thread
            self._queue.put(error)

    def _receive(self, message: Event | NodeResult | BaseException) -> None:
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, NodeResult):
            self._ledger = self._ledger.release(message.node)
            self._finish(message)
        else:
            self._emit(message)

    def _finish(self, result: NodeResult) -> None:
        self._results[result.node] = result
        self._emit(
            NodeFinished(
                result.node,
                str(result.state),
                result.reason,
                key=result.key,
                artifact=result.artifact.digest if result.artifact else None,
                seconds=result.seconds,
                cpu_seconds=result.cpu_seconds,
                max_rss_bytes=result.max_rss_bytes,
                error=to_json(result.error) if result.error else None,
            )
        )
        self._sorter.done(result.node)

    def _stop(self) -> None:
        """Ends all processes and notes what was finished meanwhile; a second Ctrl-C changes nothing."""
        with ignoring_interrupts():
            self._executor.close()
            while not self._queue.empty():
                message = self._queue.get()
                if isinstance(message, NodeResult) and message.has_output:
                    self._finish(message)

    def _blocked_by(self, node: Node, source: str) -> NodeResult:
        """The result of a node whose input ``source`` came to nothing, with the first cause of that."""
        cause = self._results[source]
        if cause.state is Ending.BLOCKED:
            return NodeResult(node.name, Ending.BLOCKED, cause.reason)
        return NodeResult(node.name, Ending.BLOCKED, f"{source} failed")

    def _inputs(self, node: Node) -> dict[str, str]:
        outputs = ((name, self._results[source].artifact) for name, source in node.inputs.items())
        return {name: artifact.digest for name, artifact in outputs if artifact is not None}

    def _claim(self, node: Node, decision: Decision) -> Claim:
        if decision.expected is not None:
            memory_bytes = int(decision.expected.held_bytes * EXPECTED_FACTOR)
        else:
            artifacts = (self._results[source].artifact for source in set(node.inputs.values()))
            size_bytes = sum(artifact.record.size_bytes for artifact in artifacts if artifact)
            memory_bytes = BASE_BYTES + INPUT_FACTOR * size_bytes
        return Claim(node.name, memory_bytes, base.get(node.stage).exclusive)

    def _emit(self, event: Event) -> None:
        self._journal.write(event)
        self._on_event(event)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP do what Ctrl-C does while the block runs.

    Only in the main thread, where Python delivers signals, and only where nobody chose otherwise: under nohup
    a hang-up stays ignored.
    """
    changed = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                changed[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """Keeps a second Ctrl-C or SIGTERM from breaking the block, which is short."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler that C code installed reads as None, and could not be put back.
    ours = [number for number in numbers if signal.getsignal(number) is not None]
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ours}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
