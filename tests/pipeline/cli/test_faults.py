"""Killed, interrupted and racing runs: what was finished is kept, and the end is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.faults import DELIVERY, PUBLISH, RECORD
from ingot.pipeline.history import History
from ingot.pipeline.locate import report_directory

if TYPE_CHECKING:
    from .conftest import Workplace

# Cheap nodes that are made anew in these tests; all else is in the store already.
NODES = ("load", "quantize@cpu-int8", "export@cpu-int8")


@pytest.fixture
def half_built(workplace: Workplace) -> tuple[Workplace, dict[str, str]]:
    """A workplace that has yet to make NODES, and what every node's output is in the end."""
    outputs = workplace.outputs()
    workplace.forget(*NODES)
    return workplace, outputs


def is_resumed(workplace: Workplace, outputs: dict[str, str]) -> None:
    """Asserts that the same command goes on to the same end, and leaves a clean store."""
    ended = workplace.run()
    assert ended.code == 0, ended.err
    states = workplace.states()
    assert set(states) == set(outputs)
    assert {name for name, state in states.items() if state == "built"} <= set(NODES)
    assert workplace.outputs() == outputs
    workplace.is_clean()
    workplace.leaves_nothing()


class TestKills:
    @pytest.mark.parametrize("label", PUBLISH)
    def test_a_worker_that_dies_while_it_publishes_fails_alone_and_the_run_resumes(
        self, workplace: Workplace, label: str
    ) -> None:
        outputs = workplace.outputs()
        workplace.forget("load")
        ended = workplace.run(INGOT_FAULT=label)
        assert ended.code == 4
        assert ended.err.count("error: ") == 1
        assert "error: the worker of load was killed by signal 9" in ended.err
        states = workplace.states()
        assert states["load"] == "failed"
        assert states["export@cpu-int8"] == "blocked"
        is_resumed(workplace, outputs)

    @pytest.mark.parametrize("label", RECORD)
    def test_a_driver_that_dies_while_it_records_leaves_a_store_that_resumes(
        self, workplace: Workplace, label: str
    ) -> None:
        outputs = workplace.outputs()
        workplace.forget("load")
        assert workplace.run(INGOT_FAULT=label).code == -signal.SIGKILL
        workplace.await_silence()
        is_resumed(workplace, outputs)

    @pytest.mark.parametrize("label", DELIVERY)
    def test_a_driver_that_dies_while_it_delivers_leaves_one_whole_delivery_in_the_end(
        self, workplace: Workplace, label: str
    ) -> None:
        outputs = workplace.outputs()
        before = (workplace.directory / "out" / "cpu-int8" / "manifest.json").read_text()
        changed = ("--set", "gates.perplexity.max_increase=60%")  # nothing is built anew for another limit
        assert workplace.run(*changed, INGOT_FAULT=label).code == -signal.SIGKILL
        assert workplace.run(*changed).code == 0
        after = (workplace.directory / "out" / "cpu-int8" / "manifest.json").read_text()
        assert after != before
        assert "60" in after
        assert workplace.outputs() == outputs
        workplace.is_clean()
        workplace.leaves_nothing()

    def test_a_killed_worker_is_one_clear_error_and_the_run_resumes(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        process = workplace.ingot.start(*workplace.command)
        os.kill(workplace.await_worker(process), signal.SIGKILL)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 4
        assert err.count("error: ") == 1
        assert "was killed by signal 9" in err
        assert "Traceback" not in err
        is_resumed(workplace, outputs)

    def test_when_the_driver_is_killed_its_workers_end_too_and_the_run_resumes(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        process = workplace.ingot.start(*workplace.command)
        workplace.await_worker(process)
        process.kill()
        process.communicate(timeout=60)
        workplace.await_silence()
        assert "unfinished" in workplace.ingot("ls", "--runs", "--store", "st").out
        is_resumed(workplace, outputs)


class TestInterrupts:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_stopped_run_ends_its_children_says_so_and_resumes(
        self, half_built: tuple[Workplace, dict[str, str]], number: signal.Signals
    ) -> None:
        workplace, outputs = half_built
        process = workplace.ingot.start(*workplace.command)
        workplace.await_worker(process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert workplace.workers() == []
        assert out == ""
        assert err.endswith("stopped; run the same command again to go on from here\n")
        assert "Traceback" not in err
        assert "interrupted" in workplace.ingot("ls", "--runs", "--store", "st").out.splitlines()[1]
        is_resumed(workplace, outputs)

    def test_an_impatient_person_is_stopped_for_too(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        process = workplace.ingot.start(*workplace.command)
        workplace.await_worker(process)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT)
        assert "Traceback" not in err
        workplace.await_silence()
        is_resumed(workplace, outputs)


class TestRaces:
    def test_two_runs_of_one_recipe_on_one_store_both_pass_and_the_work_is_done_once(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        known = set(workplace.store.runs())
        processes = [
            workplace.ingot.start("run", "ingot.yaml", "--store", "st", "--out", out, "--json")
            for out in ("out", "other")
        ]
        ends = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ends
        both = [workplace.states(run) for run in set(workplace.store.runs()) - known]
        assert len(both) == 2
        for node in outputs:
            assert sorted(states[node] for states in both) == (
                ["built", "hit"] if node in NODES else ["hit", "hit"]
            ), node
        assert workplace.outputs() == outputs
        workplace.is_clean()
        assert all("divergence" not in action.observed for action in workplace.store.actions())

    def test_two_runs_may_deliver_to_one_place(self, half_built: tuple[Workplace, dict[str, str]]) -> None:
        workplace, outputs = half_built
        processes = [workplace.ingot.start(*workplace.command) for _ in range(2)]
        ends = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ends
        is_resumed(workplace, outputs)

    def test_gc_waits_for_no_run_and_harms_none(self, half_built: tuple[Workplace, dict[str, str]]) -> None:
        workplace, outputs = half_built
        process = workplace.ingot.start(*workplace.command)
        workplace.await_worker(process)
        workplace.ingot("gc", "--store", "st", "--max-size", "0", "--keep-runs", "0").refuses(
            "a run is using"
        )
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        is_resumed(workplace, outputs)


class TestJournal:
    @pytest.mark.parametrize(
        "fault",
        ["journal.created=eio", "journal.planned=enospc", "journal.written=enospc@4", "journal.synced=eio"],
    )
    def test_a_run_whose_journal_cannot_be_kept_ends_in_one_clear_error_and_resumes(
        self, half_built: tuple[Workplace, dict[str, str]], fault: str
    ) -> None:
        workplace, outputs = half_built
        ended = workplace.run(INGOT_FAULT=fault)
        assert ended.code == 2
        assert ended.err.count("error: ") == 1
        assert ("no space left" if "enospc" in fault else "Input/output error") in ended.err
        assert "st/runs/" in ended.err
        assert "Traceback" not in ended.err
        assert workplace.workers() == []
        is_resumed(workplace, outputs)


class TestClockThatGoesBack:
    def test_a_run_under_a_clock_that_was_set_back_is_the_last_one_everywhere(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        before = workplace.store.runs()
        ended = workplace.run(INGOT_FAULT="clock=back")
        assert ended.code == 0, ended.err
        last = workplace.store.runs()[0]
        assert last not in before
        # Its journal says what the clock said, a year earlier than the one before it.
        assert (
            workplace.events("run_started", last)[0]["time"]
            < workplace.events("run_started", before[0])[0]["time"]
        )
        listed = workplace.ingot("ls", "--runs", "--store", "st", "--json").json
        assert listed[0]["run"] == last
        assert report_directory(None, workplace.directory / "st").parent.name == last
        assert History(workplace.store).last("load").run == last
        # And gc keeps what that run used, not what the run with the later date did.
        assert workplace.ingot("gc", "--store", "st", "--max-size", "0").code == 0
        assert set(outputs.values()) <= set(workplace.store.digests())
        is_resumed(workplace, outputs)
        assert set(workplace.states().values()) == {"hit"}

    def test_a_clock_that_goes_back_during_a_run_changes_nothing(
        self, half_built: tuple[Workplace, dict[str, str]]
    ) -> None:
        workplace, outputs = half_built
        ended = workplace.run(INGOT_FAULT="clock=back@50")
        assert ended.code == 0, ended.err
        kinds = ("run_started", "node_finished", "run_finished")
        times = [event["time"] for kind in kinds for event in workplace.events(kind)]
        assert times != sorted(times)
        assert all(0 <= event["seconds"] < 600 for event in workplace.events("node_finished"))
        is_resumed(workplace, outputs)


def test_nobody_is_left_behind(workplace: Workplace) -> None:
    """A run that ended leaves no process of its own, whatever its stages started."""
    workplace.forget("cost@cpu-int8")
    assert workplace.run().code == 0
    assert workplace.workers() == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(workplace.directory) not in listed
