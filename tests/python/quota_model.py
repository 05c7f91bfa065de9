# SPDX-License-Identifier: Apache-2.0
"""A store in dictionaries, written from the manual (include/quotalite.h) alone.

A World is one state that the store may be in. Each operation takes the answer of
the real store and yields the worlds that may follow; none, if that answer is wrong
in this world. UNKNOWN stands for a call whose process was killed in it: any answer
may have been on its way. So where the manual leaves something open, or a kill does,
the worlds fork, and the next answers tell them apart."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from quotalite import Limit

DAY = 86_400
HOUR = 3_600
MAX = 2**63 - 1
UNKNOWN = ("unknown",)
DONE = ("done", None)

#: Of a lease. "dead": its holder is, and nobody may have noticed; "ended": it was
#: revoked, or its time is over; "gone": of an earlier epoch.
LIVE, DEAD, ENDED, SETTLED, GONE = "live", "dead", "ended", "settled", "gone"

Key = tuple[str, str, int]  # subject, meter, day
Answer = tuple[Any, ...]


@dataclass(frozen=True)
class LeaseState:
    subject: str
    owner: int | None  # None: it is timed
    state: str


def error(*statuses: str) -> list[Answer]:
    return [("error", status) for status in statuses]


def fits(answer: Answer, *expected: Answer) -> bool:
    """Whether it is one of those; of an error the status counts."""
    return answer == UNKNOWN or (answer[:2] if answer[0] == "error" else answer) in expected


class World:
    def __init__(self, limits: tuple[Limit, ...], day: int, ledger: bool, sync: bool, room: int):
        self.limits = limits
        self.meters = {limit.meter for limit in limits if limit.meter}
        self.ever = self.meters  # in no region before this one either
        self.day = day
        self.ledger = ledger
        self.sync = sync
        self.room = room
        self.totals: dict[Key, int] = defaultdict(int)
        self.flushed: dict[Key, int] = defaultdict(int)  # what no power cut can take away
        self.in_region: set[Key] = set()  # what the region holds for sure
        self.left = 0  # the latest day that a step back has left
        self.least: dict[Key, int] = {}
        self.copied: dict[Key, int] | None = None  # what the backup has
        self.leases: dict[str, LeaseState] = {}
        self.touched: set[str] = set()  # subjects that may have been made

    def clone(self) -> World:
        other = copy.copy(self)
        for name in ("meters", "totals", "flushed", "in_region", "leases", "touched"):
            setattr(other, name, copy.copy(getattr(self, name)))
        return other

    def identity(self) -> str:
        return repr(
            [
                (name, sorted(value) if isinstance(value, set) else value)
                for name, value in vars(self).items()
            ]
        )

    # ---- the day -------------------------------------------------------------

    def moved(self, now: int, sure: bool = True) -> list[World]:
        """After a call that read the clock; or that may have, if it is not sure."""
        world = self.clone()
        if now // DAY > self.day:
            world.day = now // DAY
        elif self.ledger and self.day * DAY - now > HOUR:
            world.left = max(self.left, self.day)
            world.day = now // DAY
            world.in_region = set()
        if world.day == self.day:
            return [world]
        return [world] if sure else [world, self.clone()]

    def asked_about(self, subject: str) -> None:
        """That the ledger was asked for an earlier day is noted, which takes a place."""
        if self.day <= self.left + 1:
            self.touched.add(subject)

    def end_of_day(self) -> int:
        return (self.day + 1) * DAY

    # ---- totals --------------------------------------------------------------

    def add(self, subject: str, amounts: dict[str, int], acknowledged: bool) -> None:
        for meter, amount in amounts.items():
            if amount > 0:
                key = (subject, meter, self.day)
                self.totals[key] = min(MAX, self.totals[key] + amount)
                self.in_region.add(key)
                if self.sync and acknowledged:
                    self.flushed[key] = min(MAX, self.flushed[key] + amount)

    def used(self, subject: str, meter: str | None) -> int:
        return self.totals.get((subject, str(meter), self.day), 0)

    def was_flushed(self) -> None:
        if self.ledger:
            self.flushed = self.totals.copy()

    # ---- room ----------------------------------------------------------------

    def pinned(self, but: str) -> set[str]:
        """Other subjects that are certainly in the region and cannot be evicted."""
        found = {lease.subject for lease in self.leases.values() if lease.state == LIVE}
        found |= {key[0] for key in self.in_region if key[2] == self.day and self.totals[key]}
        return found - {but}

    def perhaps_pinned(self, but: str) -> set[str]:
        found = {lease.subject for lease in self.leases.values() if lease.state != GONE}
        found |= {
            key[0]
            for key, total in self.totals.items()
            if total and (key[2] >= self.day - 1 or self.flushed.get(key) != total)
        }
        return found - {but}

    def is_there(self, subject: str) -> bool:
        return subject in self.pinned(but="")

    def may_be_made(self, subject: str) -> bool:
        return self.is_there(subject) or len(self.pinned(but=subject)) < self.room

    def may_be_full(self, subject: str) -> bool:
        return not self.is_there(subject) and len(self.perhaps_pinned(but=subject)) >= self.room

    def evictions(self) -> bool:
        """Whether there may have been any."""
        return len(self.touched) > self.room

    def may_be_evicted(self, subject: str) -> bool:
        return self.evictions() and not self.is_there(subject)

    # ---- charges and questions -----------------------------------------------

    def charge(
        self, now: int, subject: str, meter: str, amount: int, answer: Answer
    ) -> Iterator[World]:
        if meter not in self.meters:
            if fits(answer, *error("QL_E_METER")):
                yield from self.moved(now, sure=False)
            return
        if amount == 0:
            if fits(answer, DONE):
                yield from self.moved(now, sure=False)
            return
        for world in self.moved(now):
            if world.may_be_full(subject) and fits(answer, *error("QL_E_FULL")):
                yield world.clone()
            if world.may_be_made(subject) and fits(answer, DONE):
                world.touched.add(subject)
                world.add(subject, {meter: amount}, answer != UNKNOWN)
                yield world

    def refusal(self, now: int, subject: str, limits: Iterable[Limit]) -> Answer | None:
        """What the first limit that refuses says."""
        level = len(subject.split("/"))
        for limit in limits:
            used = self.used(subject, limit.meter) if limit.meter else self.live(subject)
            if used >= limit.cap:
                wait = self.end_of_day() - now if limit.meter else 0
                return ("refused", limit.name, used, limit.cap, wait, level)
        return None

    def limit_state(self, subject: str, limit: Limit, leases: int) -> tuple[Any, ...]:
        used = self.used(subject, limit.meter) if limit.meter else leases
        ends = self.end_of_day() if limit.meter else 0
        left = max(0, limit.cap - used)
        return (limit.name, limit.meter, limit.window, limit.cap, used, left, ends)

    def check(self, now: int, subject: str, name: str | None, answer: Answer) -> Iterator[World]:
        looked = [
            limit for limit in self.limits if limit.meter and (name is None or limit.name == name)
        ]
        for world in self.moved(now, sure=bool(looked)):
            world.asked_about(subject)
            if name is not None and not looked:
                expected = error("QL_E_LIMIT")[0]
            else:
                expected = world.refusal(now, subject, looked) or (
                    "done",
                    tuple(world.limit_state(subject, limit, 0) for limit in looked),
                )
            if fits(answer, expected):
                yield world

    def usage(self, now: int, subject: str, answer: Answer) -> Iterator[World]:
        for world in self.moved(now):
            world.asked_about(subject)
            if answer == UNKNOWN or (answer[0] == "done" and world.agrees(subject, answer[1])):
                yield world

    def agrees(self, subject: str, usage: Any) -> bool:
        dead = self.count(subject, DEAD)
        if not self.live(subject) <= usage.leases <= self.live(subject) + dead:
            return False
        limits = tuple(self.limit_state(subject, limit, usage.leases) for limit in self.limits)
        if usage.limits != limits or {meter.name for meter in usage.meters} != self.meters:
            return False
        for meter in usage.meters:
            before = self.totals.get((subject, meter.name, self.day - 1), 0)
            if meter.total != self.used(subject, meter.name):
                return False
            if meter.yesterday != before and not (self.evictions() and meter.yesterday == 0):
                return False
        return True

    def subjects(self, now: int, answer: Answer) -> Iterator[World]:
        for world in self.moved(now):
            listed = {} if answer == UNKNOWN else {info.subject: info.usage for info in answer[1]}
            if answer == UNKNOWN or (
                len(listed) == len(answer[1])
                and world.pinned(but="") <= set(listed) <= world.touched
                and all(world.agrees(subject, usage) for subject, usage in listed.items())
            ):
                yield world

    def history(
        self,
        now: int,
        subject: str,
        meter: str | None,
        start: int | None,
        end: int | None,
        answer: Answer,
    ) -> Iterator[World]:
        for world in self.moved(now, sure=False):
            expected = sorted(
                (day * DAY, (day + 1) * DAY, name, total)
                for (who, name, day), total in world.totals.items()
                if who == subject
                and total
                and meter in (None, name)
                and (start is None or start != end)
                and (start is None or (day + 1) * DAY > start)
                and (end is None or day * DAY < end)
                and (world.ledger or day in (world.day - 1, world.day))
            )
            if answer == UNKNOWN:
                yield world
                continue
            if answer[0] != "done":
                continue
            got = [tuple(entry) for entry in answer[1]]
            in_order = [entry[0] for entry in got] == sorted(entry[0] for entry in got)
            lost = set(expected) - set(got)
            if not world.ledger and world.evictions():
                lost = {entry for entry in lost if entry[0] == world.day * DAY}
            if in_order and not lost and set(got) <= set(expected) and len(set(got)) == len(got):
                yield world

    # ---- leases --------------------------------------------------------------

    def count(self, subject: str, state: str) -> int:
        return sum(
            lease.subject == subject and lease.state == state for lease in self.leases.values()
        )

    def live(self, subject: str) -> int:
        return self.count(subject, LIVE)

    def admit(
        self, now: int, worker: int, subject: str, kind: str, answer: Answer
    ) -> Iterator[World]:
        """Acquire too, whose kind is "acquired"; it looks at the concurrent limit alone."""
        limits = [limit for limit in self.limits if kind != "acquired" or not limit.meter]
        for world in self.moved(now, sure=any(limit.meter for limit in limits)):
            world.touched.add(subject)
            refusal = world.refusal(now, subject, limits)
            if refusal is not None and fits(answer, refusal):
                yield world.clone()
            if refusal is not None:
                continue
            if world.may_be_full(subject) and fits(answer, *error("QL_E_FULL")):
                yield world.clone()
            if world.may_be_made(subject) and (answer == UNKNOWN or answer[0] == "done"):
                text = f"?{len(world.leases)}" if answer == UNKNOWN else answer[1]
                if text in world.leases:
                    continue
                owner = None if kind in ("timed", "brief") else worker
                state = ENDED if kind in ("aged", "brief") else LIVE
                world.leases[text] = LeaseState(subject, owner, state)
                yield world

    def acquire(self, now: int, worker: int, subject: str, answer: Answer) -> Iterator[World]:
        yield from self.admit(now, worker, subject, "acquired", answer)

    def become(self, text: str, state: str) -> World:
        world = self.clone()
        world.leases[text] = replace(world.leases[text], state=state)
        return world

    def settle(
        self, now: int, worker: int, text: str, charges: dict[str, int], answer: Answer
    ) -> Iterator[World]:
        lease = self.leases[text]
        sure = any(charges.values())
        unknown_meter = not set(charges) <= self.meters
        if unknown_meter and fits(answer, *error("QL_E_METER")):
            yield from self.moved(now, sure=False)
        if lease.state == SETTLED:
            # Its record may have been taken for another lease since.
            expected = error("QL_E_SETTLED", "QL_E_EXPIRED")
        elif lease.state == GONE:
            expected = error("QL_E_EXPIRED")
        elif lease.state == LIVE and lease.owner not in (None, worker):
            expected = error("QL_E_NOT_OWNER")
        else:
            expected = [("done", lease.state != LIVE)]
        if (
            lease.state in (DEAD, ENDED)
            and self.may_be_evicted(lease.subject)
            and fits(answer, *error("QL_E_EXPIRED"))
        ):
            yield from self.moved(now, sure=False)
        if not fits(answer, *expected):
            return
        if expected[0][0] == "error":
            yield from self.moved(now, sure=False)
        elif not unknown_meter:
            for world in self.moved(now, sure):
                world = world.become(text, SETTLED)
                world.touched.add(lease.subject)
                world.add(lease.subject, charges, answer != UNKNOWN)
                yield world

    def release(self, now: int, worker: int, text: str, answer: Answer) -> Iterator[World]:
        yield from self.settle(now, worker, text, {}, answer)

    def renew(self, now: int, text: str, answer: Answer) -> Iterator[World]:
        lease = self.leases[text]
        expected = {
            LIVE: [DONE],
            DEAD: error("QL_E_EXPIRED"),
            ENDED: error("QL_E_EXPIRED"),
            SETTLED: error("QL_E_SETTLED", "QL_E_EXPIRED"),
            GONE: error("QL_E_EXPIRED"),
        }[lease.state]
        if lease.owner is not None:
            held = error("QL_E_INVALID")
            expected = held if lease.state == LIVE else expected + held
        if fits(answer, *expected):
            yield from self.moved(now, sure=False)

    def revoke(self, now: int, text: str, answer: Answer) -> Iterator[World]:
        state = self.leases[text].state
        if state == LIVE and fits(answer, DONE):
            for world in self.moved(now, sure=False):
                yield world.become(text, ENDED)
        elif state == SETTLED and fits(answer, *error("QL_E_SETTLED", "QL_E_EXPIRED")):
            yield from self.moved(now, sure=False)
        elif state == DEAD and fits(answer, DONE):  # whose death nobody has noticed
            for world in self.moved(now, sure=False):
                yield world.become(text, ENDED)
        elif state in (DEAD, ENDED, GONE) and fits(answer, *error("QL_E_EXPIRED")):
            yield from self.moved(now, sure=False)

    def list_leases(self, now: int, worker: int, answer: Answer) -> Iterator[World]:
        for world in self.moved(now, sure=False):
            if answer == UNKNOWN or world.recognise(worker, answer[1]):
                yield world

    def recognise(self, worker: int, listed: list[Any]) -> bool:
        """Whether those are its leases. Gives those without a text theirs."""
        seen = set()
        for info in listed:
            if info.lease not in self.leases:
                self.name_one(info)
            lease = self.leases.get(info.lease)
            if (
                lease is None
                or info.lease in seen
                or lease.state not in (LIVE, DEAD)
                or lease.subject != info.subject
                or info.timed != (lease.owner is None)
                or info.own != (lease.owner == worker and lease.state == LIVE)
            ):
                return False
            seen.add(info.lease)
        return {text for text, lease in self.leases.items() if lease.state == LIVE} <= seen

    def name_one(self, info: Any) -> None:
        for text, lease in list(self.leases.items()):
            timed = lease.owner is None
            if text.startswith("?") and (lease.subject, timed) == (info.subject, info.timed):
                self.leases[info.lease] = self.leases.pop(text)
                return

    # ---- limits, care --------------------------------------------------------

    def replace(self, now: int, limits: tuple[Limit, ...], answer: Answer) -> Iterator[World]:
        for world in self.moved(now, sure=False):
            world.limits = limits
            world.meters = self.meters | {limit.meter for limit in limits if limit.meter}
            world.ever = self.ever | world.meters
            if fits(answer, DONE):
                yield world

    def list_limits(self, now: int, answer: Answer) -> Iterator[World]:
        if fits(answer, ("done", self.limits)):
            yield from self.moved(now, sure=False)

    def flush(self, now: int, answer: Answer) -> Iterator[World]:
        for world in self.moved(now, sure=False):
            if fits(answer, DONE):
                if answer != UNKNOWN:
                    world.was_flushed()
                yield world

    def backup(self, now: int, answer: Answer) -> Iterator[World]:
        if not self.ledger:
            if fits(answer, *error("QL_E_INVALID")):
                yield from self.moved(now, sure=False)
            return
        for world in self.flush(now, answer):
            if answer != UNKNOWN:
                world.copied = dict(world.totals)
            yield world

    def verify(self, now: int, answer: Answer) -> Iterator[World]:
        for world in self.moved(now, sure=False):
            if answer == UNKNOWN or (answer[0] == "done" and world.report_agrees(answer[1])):
                yield world

    def report_agrees(self, report: Any) -> bool:
        states = [lease.state for lease in self.leases.values()]
        live, over = states.count(LIVE), states.count(DEAD) + states.count(ENDED)
        return bool(
            len(self.pinned(but="")) <= report.subjects <= len(self.touched)
            and live <= report.leases <= live + over
            and report.omissions == 0
            and report.max_subjects == self.room
        )

    # ---- processes and power -------------------------------------------------

    def end_process(self, worker: int, state: str) -> World:
        """It closed its handle (ENDED) or died (DEAD): neither keeps held leases."""
        world = self.clone()
        for text, lease in self.leases.items():
            if lease.owner == worker and lease.state == LIVE:
                world.leases[text] = replace(lease, state=state)
        return world

    def opened(self, now: int, answer: Answer) -> Iterator[World]:
        if fits(answer, DONE):
            yield from self.moved(now, sure=False)

    def reboot(self, now: int, limits: tuple[Limit, ...], meters: set[str]) -> Iterator[World]:
        """A new region, made by somebody who gave those limits. It may know meters that
        were named before."""
        world = self.clone()
        world.leases = {text: replace(lease, state=GONE) for text, lease in self.leases.items()}
        world.in_region = set()
        world.limits = limits
        world.meters = meters
        named = {limit.meter for limit in limits if limit.meter}
        if named <= meters <= named | self.ever:
            # The ledger may have had the next day open, less than an hour ahead.
            for day in {now // DAY, (now + HOUR * world.ledger) // DAY}:
                other = world.clone()
                other.day = day
                other.left = max((key[2] for key in world.totals), default=0)
                yield other

    def adopt(
        self, seen: dict[Key, int], least: dict[Key, int], exact: set[Key]
    ) -> Iterator[World]:
        """Goes on with what was seen, if it is not more than there was, not less than
        the least, and right where it has to be."""
        for key in set(seen) | set(self.totals) | set(least):
            there, total = seen.get(key, 0), self.totals.get(key, 0)
            if not least.get(key, 0) <= there <= total or (key in exact and there != total):
                return
        world = self.clone()
        world.totals = defaultdict(int, seen)
        world.flushed = defaultdict(int, seen)
        yield world

    def surely_in_region(self) -> set[Key]:
        days = (self.day,) if self.evictions() else (self.day - 1, self.day)
        return {key for key in self.in_region if key[2] in days}
