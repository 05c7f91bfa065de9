# SPDX-License-Identifier: Apache-2.0
"""Timed leases: they belong to no process and to no object."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator

import pytest
from conftest import Worker, eventually, in_child

import quotalite
from quotalite import Limit, QuotaExceededError, Store

Start = Callable[..., Worker]

LIMITS = (Limit("jobs", 2), Limit("tokens_a_day", 100, "tokens", "day"))
LONG_MS = 3_600_000
DAYS_366_MS = 366 * 86_400_000


@pytest.fixture
def store(store_path: str) -> Iterator[Store]:
    with Store(store_path, LIMITS, max_subjects=64) as opened:
        yield opened


def held(store: Store) -> int:
    return store.usage("alice").leases


def tokens(store: Store) -> int:
    return store.usage("alice").meters[0].total


def status_of(call: Callable[[], object]) -> str:
    with pytest.raises(quotalite.Error) as error:
        call()
    return error.value.status


def test_a_timed_lease_is_listed_as_such(store: Store) -> None:
    timed = store.admit("alice", ttl_ms=LONG_MS)
    kept = store.admit("alice", LONG_MS)
    listed = {info.lease: info for info in store.leases()}
    assert (listed[timed.text].timed, listed[timed.text].own, listed[timed.text].pid) == (
        True,
        False,
        0,
    )
    assert 0 < listed[timed.text].expires_in_ms <= LONG_MS
    assert (listed[kept.text].timed, listed[kept.text].own) == (False, True)


def test_a_timed_lease_outlives_its_object_and_its_store(store: Store, store_path: str) -> None:
    with Store(store_path) as other:
        text = other.admit("alice", ttl_ms=LONG_MS).text
        other.admit("alice")  # held: it goes with its object
        gc.collect()
        assert held(store) == 1
    assert [info.lease for info in store.leases()] == [text]
    assert store.lease(text).settle({"tokens": 7}) is False
    assert (held(store), tokens(store)) == (0, 7)


def test_a_with_block_gives_a_timed_slot_back(store: Store) -> None:
    with store.admit("alice", ttl_ms=LONG_MS):
        assert held(store) == 1
    assert held(store) == 0
    text = store.admit("alice", ttl_ms=LONG_MS).text
    with store.lease(text):
        assert held(store) == 1
    assert held(store) == 0


TAKER = """
import sys
from quotalite import Store
store = Store(sys.argv[1])
timed, held = store.admit("alice", ttl_ms=3_600_000), store.admit("alice")
print(timed.text, held.text, flush=True)
sys.stdin.readline()
"""


def test_another_process_renews_and_settles_a_timed_lease_only(
    store: Store, store_path: str, start_worker: Start
) -> None:
    worker = start_worker(TAKER, store_path)
    timed, foreign = (store.lease(text) for text in worker.line().split())
    assert status_of(foreign.settle) == "QL_E_NOT_OWNER"
    worker.signal(signal.SIGKILL)
    worker.process.wait()
    assert eventually(lambda: held(store) == 1)
    timed.renew()
    assert timed.settle({"tokens": 5}) is False
    assert status_of(timed.settle) == "QL_E_SETTLED"
    assert foreign.settle({"tokens": 2}) is True  # late: its holder is dead
    assert (held(store), tokens(store)) == (0, 7)


@pytest.mark.parametrize("thread", [False, True])
def test_a_lease_of_the_dead_is_settled_by_anybody_at_once(
    store_path: str, start_worker: Start, thread: bool
) -> None:
    """Also where nobody has noticed the death yet."""
    with Store(store_path, LIMITS, max_subjects=64, thread=thread) as store:
        worker = start_worker(TAKER, store_path)
        foreign = store.lease(worker.line().split()[1])
        worker.signal(signal.SIGKILL)
        worker.process.wait()
        assert foreign.settle({"tokens": 2}) is True
        assert status_of(foreign.settle) == "QL_E_SETTLED"
        assert tokens(store) == 2


AGED = """
import sys, time
from quotalite import Store
store = Store(sys.argv[1], thread=False)
leases = [store.admit("alice", max_age_ms=1) for _ in range(2)]
over = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.002
while time.clock_gettime(time.CLOCK_BOOTTIME) < over:
    pass
print(*(lease.text for lease in leases), flush=True)
sys.stdin.readline()
"""


def test_a_lease_over_its_age_has_ended_for_anybody(store_path: str, start_worker: Start) -> None:
    """Also where nobody has ended it yet."""
    with Store(store_path, LIMITS, max_subjects=64, thread=False) as store:
        worker = start_worker(AGED, store_path)
        settled, revoked = (store.lease(text) for text in worker.line().split())
        assert settled.settle({"tokens": 2}) is True
        assert status_of(lambda: store.revoke(revoked)) == "QL_E_EXPIRED"
        assert (held(store), tokens(store)) == (0, 2)


def test_a_forked_child_settles_what_its_parent_admitted(store: Store) -> None:
    leases = [store.admit("alice", ttl_ms=LONG_MS) for _ in range(2)]

    def child() -> None:
        leases.pop()  # dropped here, and nowhere else
        gc.collect()
        assert held(store) == 2
        leases.pop().settle({"tokens": 3})

    assert in_child(child) == 0
    assert (held(store), tokens(store)) == (1, 3)
    assert status_of(leases[0].settle) == "QL_E_SETTLED"
    assert leases[1].release() is False


def test_renew_moves_the_deadline(store: Store) -> None:
    lease = store.admit("alice", ttl_ms=LONG_MS)

    def left_ms() -> int:
        return store.leases()[0].expires_in_ms

    def renewed_ms() -> int:
        assert lease.renew() is None  # type: ignore[func-returns-value]
        return left_ms()

    assert eventually(lambda: left_ms() <= LONG_MS - 20)
    assert eventually(lambda: renewed_ms() > LONG_MS - 20)


def test_what_is_over_is_not_renewed_and_settles_late(store: Store) -> None:
    lease = store.admit("alice", ttl_ms=1)
    assert eventually(lambda: held(store) == 0)
    with pytest.raises(quotalite.Error, match="settle\\(\\) still charges") as error:
        lease.renew()
    assert error.value.status == "QL_E_EXPIRED"
    with pytest.raises(quotalite.Error, match="nothing is left to revoke"):
        store.revoke(lease)
    assert lease.settle({"tokens": 9}) is True
    assert tokens(store) == 9
    assert status_of(lease.settle) == "QL_E_SETTLED"
    assert status_of(lease.renew) == "QL_E_SETTLED"


def test_a_lease_that_the_store_does_not_know_says_whom_to_charge(store: Store) -> None:
    with Store("memory:", LIMITS, max_subjects=64) as other:
        lease = store.lease(other.admit("alice", ttl_ms=LONG_MS).text)
    with pytest.raises(quotalite.Error, match="Store.charge") as error:
        lease.settle({"tokens": 1})
    assert error.value.status == "QL_E_EXPIRED"
    assert tokens(store) == 0 if store.usage("alice").meters else True


def test_a_held_lease_is_not_renewed(store: Store) -> None:
    lease = store.admit("alice")
    with pytest.raises(ValueError, match="ttl_ms"):
        lease.renew()
    assert held(store) == 1


def test_timed_leases_count_against_the_limit(store: Store) -> None:
    texts = [store.admit("alice", 0, LONG_MS).text for _ in range(2)]
    with pytest.raises(QuotaExceededError) as refusal:
        store.admit("alice", ttl_ms=LONG_MS)
    assert refusal.value.kind == "jobs"
    store.revoke(texts[0])
    assert store.lease(texts[0]).release() is True
    assert held(store) == 1


def test_the_object_of_a_text_owns_nothing(store: Store) -> None:
    taken = store.admit("alice")
    again = store.lease(taken.text)
    assert (again.subject, again.text, taken.subject) == (None, taken.text, "alice")
    del again
    gc.collect()
    assert held(store) == 1
    assert store.lease(taken.text).settle({"tokens": 1}) is False
    assert status_of(taken.settle) == "QL_E_SETTLED"
    assert tokens(store) == 1


@pytest.mark.parametrize("text", ["", "x", "1.2", "1.2.3.4", "1.2.\0", "\ud800"])
def test_a_text_that_is_none_is_a_value_error(store: Store, text: str) -> None:
    with pytest.raises(ValueError):
        store.lease(text)


@pytest.mark.parametrize("name", ["max_age_ms", "ttl_ms"])
def test_how_long_a_lease_may_live(store: Store, name: str) -> None:
    for wrong in (-1, DAYS_366_MS + 1, 2**200, -(2**200)):
        with pytest.raises(ValueError, match=f"{name} is {wrong}: it must be 1 to"):
            store.admit("alice", **{name: wrong})
    with pytest.raises(TypeError):
        store.admit("alice", **{name: 1.5})  # type: ignore[arg-type]
    with store.admit("alice", **{name: DAYS_366_MS}):
        assert 0 < store.leases()[0].expires_in_ms <= DAYS_366_MS


def test_other_wrong_arguments(store: Store) -> None:
    with pytest.raises(ValueError, match="give one of them"):
        store.admit("alice", max_age_ms=1, ttl_ms=1)
    with pytest.raises(TypeError, match="is no lease's text"):
        store.lease(store.admit("alice"))  # type: ignore[arg-type]
    assert held(store) == 0


def test_a_closed_store_leaves_a_timed_lease_alone(store: Store, store_path: str) -> None:
    other = Store(store_path)
    lease = other.admit("alice", ttl_ms=LONG_MS)
    other.close()
    for call in (lease.renew, lease.settle, lease.release):
        with pytest.raises(ValueError, match="closed"):
            call()
    lease.__exit__(None, None, None)
    assert held(store) == 1
