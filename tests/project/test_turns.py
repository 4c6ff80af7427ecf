"""What runs beside a test of another process: a test that asserts time has the machine for itself."""

import threading

import pytest

pytest.importorskip("fcntl")

from turns import turn


def test_who_is_alone_waits_for_the_others_and_lets_none_start(tmp_path):
    beside, entered, order = threading.Barrier(3, timeout=20), threading.Event(), []

    def shared(name):
        with turn(tmp_path, alone=False):
            beside.wait()  # two at once, and the test itself
            entered.wait(20)
            order.append(name)

    def alone():
        with turn(tmp_path, alone=True):
            order.append("alone")

    def late():
        with turn(tmp_path, alone=False):
            order.append("late")

    started = [threading.Thread(target=shared, args=(name,)) for name in "ab"]
    for thread in started:
        thread.start()
    beside.wait()
    for job in (alone, late):
        started.append(threading.Thread(target=job))
        started[-1].start()
        started[-1].join(0.2)  # at its lock, if nothing stops it before
    assert order == []
    entered.set()
    for thread in started:
        thread.join(20)
    assert sorted(order[:2]) == ["a", "b"] and order[2:] == ["alone", "late"]
