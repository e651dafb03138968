"""Locks: the living are waited for, the dead are not, and a deleted lock file locks nobody out or in."""

from __future__ import annotations

import os
import threading
import time

from ingot.artifacts import locks


def test_a_waiter_whose_lock_file_was_deleted_takes_the_new_one(tmp_path):
    path = tmp_path / "lock"
    first = locks.take(path)
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(locks.take(path)))
    waiter.start()
    time.sleep(0.05)
    path.unlink()
    os.close(first)
    waiter.join()
    assert os.fstat(taken[0]).st_ino == path.stat().st_ino
    assert locks.try_take(path) is None
    os.close(taken[0])


def test_a_lock_can_be_probed_without_being_left_held(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    assert not path.exists()
    descriptor = locks.take(path)
    assert locks.is_held(path)
    os.close(descriptor)
    assert not locks.is_held(path)
    assert not locks.is_held(path)


def test_only_an_idle_lock_file_is_removed(tmp_path):
    path = tmp_path / "lock"
    descriptor = locks.take(path)
    locks.remove_idle(path)
    assert path.exists()
    os.close(descriptor)
    locks.remove_idle(path)
    assert not path.exists()


def test_sharers_keep_an_exclusive_holder_waiting(tmp_path):
    path = tmp_path / "lock"
    order = []

    def exclusively() -> None:
        with locks.exclusive(path):
            order.append("exclusive")

    with locks.shared(path), locks.shared(path):
        thread = threading.Thread(target=exclusively)
        thread.start()
        time.sleep(0.05)
        order.append("shared")
    thread.join()
    assert order == ["shared", "exclusive"]
