# SPDX-License-Identifier: Apache-2.0
"""Random operations on a store by several processes, with deaths, steps of the
clock, power cuts and faults of the ledger, against a store in dictionaries
(quota_model.py). What is not in here: that leases of a process that closes its
descriptors end (tests/kill), and the system's clock (tests/unit).

QUOTALITE_MODEL_EXAMPLES and QUOTALITE_MODEL_SEED make a long run of it."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model_worker import Answer, Clock, Task, Tasks, Worker, let_a_millisecond_end
from quota_model import DAY, DEAD, DONE, ENDED, MAX, UNKNOWN, Key, World

from quotalite import Limit

EXAMPLES = int(os.environ.get("QUOTALITE_MODEL_EXAMPLES", "60"))
STEPS = 50
SEED = int(os.environ.get("QUOTALITE_MODEL_SEED", "20300314"))

FIRST_DAY = 21_987  # 14 March 2030
ROOMY = 1024
SUBJECTS = ("alice", "bob", "acme/data/alice", "carol", "dave", "eve", "frank")
METERS = ("bytes", "tokens", "rows")
LIMITS = (
    (Limit("jobs", 2), Limit("bytes_a_day", 10, "bytes", "day")),
    (
        Limit("tokens_a_day", 6, "tokens", "day"),
        Limit("jobs", 1),
        Limit("bytes_a_day", 4, "bytes", "day"),
    ),
    (
        Limit("bytes_a_day", MAX, "bytes", "day"),
        Limit("rows_a_day", 5, "rows", "day"),
        Limit("jobs", 3),
        Limit("few_bytes", 20, "bytes", "day"),
    ),
    (Limit("tokens_a_day", 8, "tokens", "day"),),
    (Limit("jobs", 0), Limit("rows_a_day", 0, "rows", "day")),
)

numbers = st.integers(0, 1000)
subjects = st.integers(0, len(SUBJECTS) - 1)
amounts = st.sampled_from((1, 2, 3, 5, 1, 2, 3, 5, 0, MAX))
meters = st.sampled_from(METERS)
charges = st.dictionaries(meters, amounts, max_size=2)
limit_names = st.sampled_from((None, "bytes_a_day", "tokens_a_day", "rows_a_day", "jobs"))
seconds = st.sampled_from(
    [None] + [(FIRST_DAY + day) * DAY + at for day in (0, 1, 4) for at in (0, 43_200)]
)

#: Tasks of which each is one step for the others. Subjects and leases are numbers here.
simple_tasks = st.one_of(
    st.tuples(st.just("charge"), subjects, meters, amounts),
    st.tuples(st.just("charge"), subjects, meters, amounts),
    st.tuples(st.just("admit"), subjects, st.sampled_from(("held", "timed", "held", "timed"))),
    st.tuples(st.just("acquire"), subjects),
    st.tuples(st.just("settle"), numbers, charges),
    st.tuples(st.just("settle"), numbers, charges),
    st.tuples(st.just("release"), numbers),
    st.tuples(st.just("renew"), numbers),
    st.tuples(st.just("revoke"), numbers),
    st.tuples(st.just("check"), subjects, limit_names),
    st.tuples(st.just("usage"), subjects),
    st.tuples(st.just("flush")),
    st.tuples(st.just("replace"), st.sampled_from(LIMITS)),
)
tasks = st.one_of(
    simple_tasks,
    simple_tasks,
    st.tuples(st.just("admit"), subjects, st.sampled_from(("aged", "brief"))),
    st.tuples(st.just("subjects")),
    st.tuples(st.just("leases")),
    st.tuples(st.just("limits")),
    st.tuples(st.just("history"), subjects, st.one_of(st.none(), meters), seconds, seconds),
    st.tuples(st.just("backup")),
    st.tuples(st.just("verify")),
)

#: The model's function, where its name is another, and those that want to know who calls.
MODEL = {"leases": "list_leases", "limits": "list_limits", "open": "opened"}
BY_WHOM = ("admit", "acquire", "settle", "release", "leases")


class Process:
    """One of the places for a process; it is started when it is needed."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.id = 0
        self.open = False
        self.skew = 0


class StoreMachine(RuleBasedStateMachine):
    """Draws never depend on what the store answers, nor on how far a call came that
    was killed, so that Hypothesis can repeat and shrink a run."""

    counts = {"steps": 0, "kills in calls": 0, "of them unanswered": 0, "worlds": 0}

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="quotalite-model-")
        self.store = os.path.join(self.directory, "store")
        self.clock = Clock(FIRST_DAY * DAY + DAY // 2)
        self.processes = [Process() for _ in range(3)]
        self.ids = 0
        self.worlds: list[World] = []
        self.texts: list[str] = []
        self.backup: str | None = None
        self.backups = 0
        self.broken = False

    @initialize(
        durability=st.sampled_from(("async", "sync", "async", "none")),
        thread=st.booleans(),
        room=st.sampled_from((ROOMY, 4)),
        interval=st.sampled_from((0.001, 0.2, 3600)),
        limits=st.sampled_from(LIMITS[:3]),
    )
    def make(
        self,
        durability: str,
        thread: bool,
        room: int,
        interval: float,
        limits: tuple[Limit, ...],
    ) -> None:
        self.durability = durability
        self.thread = thread
        self.room = room
        self.options = {
            "durability": durability,
            "thread": thread,
            "flush_interval_seconds": interval,
            "max_subjects": room,
            "max_leases": 256,
            "max_meters": 3,
            "max_holders": 64,
            "admit_wait_seconds": 30,
            "charge_wait_seconds": 30,
            "history_days": math.inf,
        }
        day = self.clock.now // DAY
        self.worlds = [World(limits, day, durability != "none", durability == "sync", room)]
        self.enter(self.processes[0], limits)

    # ---- how a step is taken ---------------------------------------------------

    def enter(self, process: Process, limits: tuple[Limit, ...] | None = None) -> Worker:
        """Starts it and opens its handle, where that is not so."""
        if process.worker is None:
            self.ids += 1
            process.id = self.ids
            process.worker = Worker(Tasks(self.clock, self.store, self.options))
        if not process.open:
            process.open = True
            task = ("open", limits, process.skew)
            self.follow([(process, task, process.worker.do(*task))])
        return process.worker

    def after(self, worlds: list[World], process: Process, task: Task, answer: Answer) -> Any:
        name, *arguments = task
        if name in ("backup", "open"):
            arguments = []
        if name in BY_WHOM:
            arguments.insert(0, process.id)
        now = self.clock.now + process.skew
        for world in worlds:
            yield from getattr(world, MODEL.get(name) or str(name))(now, *arguments, answer)

    def follow(self, *orders: list[tuple[Process, Task, Answer]]) -> None:
        """Leaves the worlds in which these answers are right, in one of these orders."""
        found: list[World] = []
        for order in orders:
            worlds = self.worlds
            for process, task, answer in order:
                worlds = list(self.after(worlds, process, task, answer))
            found += worlds
        self.narrow(found, orders[0])

    def narrow(self, worlds: list[World], why: Any) -> None:
        distinct = {world.identity(): world for world in worlds}
        if not distinct:
            self.broken = True
            calls = [
                f"process {process.id} at {self.clock.now + process.skew}: {task} -> {answer}"
                if isinstance(process, Process)
                else f"{process}: {task} {answer}"
                for process, task, answer in why
            ]
            states = "\n".join(world.identity() for world in self.worlds)
            raise AssertionError("no world has\n" + "\n".join(calls) + "\nout of\n" + states)
        self.worlds = list(distinct.values())
        self.counts["steps"] += 1
        self.counts["worlds"] = max(self.counts["worlds"], len(self.worlds))

    def name(self, number: int) -> str:
        return SUBJECTS[number % (len(SUBJECTS) if self.room != ROOMY else 3)]

    def meant(self, task: Task) -> Task | None:
        """The task with the subjects' names and the leases' texts."""
        name, *arguments = task
        if name in ("charge", "admit", "acquire", "check", "usage", "history"):
            arguments[0] = self.name(arguments[0])
        if name in ("settle", "release", "renew", "revoke"):
            if not self.texts:
                return None
            # The latest are the most interesting.
            arguments[0] = self.texts[-1 - arguments[0] % len(self.texts)]
        if name == "history" and None not in arguments[2:]:
            arguments[2:] = sorted(arguments[2:])
        if name == "backup":
            self.backups += 1
            arguments = [os.path.join(self.directory, f"backup-{self.backups}")]
        return (name, *arguments)

    def learn(self, task: Task, answer: Answer) -> None:
        if answer[0] == "done" and task[0] in ("admit", "acquire"):
            self.texts.append(answer[1])
        if answer[0] == "done" and task[0] == "leases":
            self.texts += [lease.lease for lease in answer[1] if lease.lease not in self.texts]
        if answer[0] == "done" and task[0] == "backup":
            self.backup = task[1]

    def do(self, process: Process, *task: Any) -> Answer:
        answer = self.enter(process).do(*task)
        self.follow([(process, task, answer)])
        self.learn(task, answer)
        return answer

    # ---- rules -------------------------------------------------------------------

    @rule(calls=st.lists(st.tuples(st.integers(0, 2), tasks), min_size=1, max_size=8))
    def call(self, calls: list[tuple[int, Task]]) -> None:
        for number, task in calls:
            meant = self.meant(task)
            if meant is not None:
                self.do(self.processes[number], *meant)

    @rule(number=st.integers(0, 2), subject=subjects, meter=meters, days=st.integers(1, 2))
    def charge_across_midnight(self, number: int, subject: int, meter: str, days: int) -> None:
        self.do(self.processes[number], "charge", self.name(subject), meter, 1)
        self.clock.now += days * DAY
        self.do(self.processes[(number + 1) % 3], "charge", self.name(subject), meter, 2)

    @rule(first=simple_tasks, second=simple_tasks)
    def two_calls_at_once(self, first: Task, second: Task) -> None:
        pairs = [
            (process, task)
            for process, task in zip(
                self.processes, (self.meant(first), self.meant(second)), strict=False
            )
            if task is not None
        ]
        workers = [self.enter(process) for process, _ in pairs]
        for worker, (_, task) in zip(workers, pairs, strict=True):
            worker.send(task)
        answered = [
            (process, task, worker.receive())
            for worker, (process, task) in zip(workers, pairs, strict=True)
        ]
        if answered:
            self.follow(answered, answered[::-1])
        for _, task, answer in answered:
            self.learn(task, answer)

    @rule(number=st.integers(0, 2))
    def close(self, number: int) -> None:
        process = self.processes[number]
        if process.open and process.worker is not None:
            answer = process.worker.do("close")
            process.open = False
            worlds = [world.end_process(process.id, ENDED) for world in self.worlds]
            self.narrow(worlds if answer == DONE else [], [(process, "close", answer)])

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        self.end(self.processes[number])

    def end(self, process: Process) -> Answer | None:
        if process.worker is None:
            return None
        last = process.worker.kill()
        process.worker, process.open = None, False
        self.worlds = [world.end_process(process.id, DEAD) for world in self.worlds]
        return last

    @rule(
        number=st.integers(0, 2),
        task=tasks,
        microseconds=st.sampled_from((0, 30, 60, 100, 150, 200, 400, 1000, 3000)),
    )
    def kill_in_a_call(self, number: int, task: Task, microseconds: int) -> None:
        meant = self.meant(task)
        if meant is None:
            return
        process = self.processes[number]
        worker = self.enter(process)
        worker.send(meant)
        if microseconds:
            time.sleep(microseconds / 1e6)
        answer = worker.kill()
        if task[0] == "admit":
            let_a_millisecond_end()
        self.counts["kills in calls"] += 1
        process.worker, process.open = None, False
        worlds = list(self.after(self.worlds, process, meant, answer or UNKNOWN))
        if answer is None:
            self.counts["of them unanswered"] += 1
            worlds += self.worlds
        else:
            self.learn(meant, answer)
        worlds = [world.end_process(process.id, DEAD) for world in worlds]
        self.narrow(worlds, [(process, meant, answer)])
        self.look(self.processes[(number + 1) % 3])

    @rule(
        day=st.sampled_from((0, 0, 1, 1, 2, 3, 4)),
        second=st.sampled_from((0, 1, 1800, 43_200, 82_799, 82_800, 82_801, 86_398)),
    )
    def set_the_clock(self, day: int, second: int) -> None:
        self.clock.now = (FIRST_DAY + day) * DAY + second

    @rule(step=st.sampled_from((1, 60, 1800, 3600, 7200, DAY, 3 * DAY)), back=st.booleans())
    def step_the_clock(self, step: int, back: bool) -> None:
        self.clock.now += -step if back else step

    @rule(number=st.integers(0, 2), skew=st.integers(-5, 5))
    def open_with_a_skewed_clock(self, number: int, skew: int) -> None:
        self.close(number)
        self.processes[number].skew = skew
        self.enter(self.processes[number])

    @rule(number=st.integers(0, 2))
    def look_around(self, number: int) -> None:
        self.look(self.processes[number])

    def look(self, process: Process) -> None:
        for subject in SUBJECTS if self.room != ROOMY else SUBJECTS[:3]:
            self.do(process, "usage", subject)
        self.do(process, "leases")

    # ---- power, and the ledger's files ---------------------------------------------

    def end_all(self, tidily: bool) -> None:
        for number, process in enumerate(self.processes):
            if tidily:
                self.close(number)
            self.end(process)

    @rule(number=st.integers(0, 2), tidily=st.booleans())
    def cut_the_power(self, number: int, tidily: bool) -> None:
        self.end_all(tidily)
        os.remove(os.path.join(self.store, "region"))
        for world in self.worlds:
            if not world.ledger:
                world.totals.clear()
        self.start_anew(number, lambda world: world.flushed)

    def start_anew(self, number: int, least: Callable[[World], dict[Key, int]]) -> None:
        process = self.processes[number]
        limits = self.worlds[0].limits
        now = self.clock.now + process.skew
        worker = process.worker = Worker(Tasks(self.clock, self.store, self.options))
        self.ids += 1
        process.id, process.open = self.ids, True
        answer = worker.do("open", limits, process.skew)
        assert answer == DONE, answer
        meters = {meter.name for meter in worker.do("usage", SUBJECTS[0])[1].meters}
        seen = self.whole_history(worker)
        worlds = [
            after
            for world in self.worlds
            for again in world.reboot(now, limits, meters)
            for after in again.adopt(seen, least(world), set())
        ]
        self.narrow(worlds, [("after a power cut", meters, seen)])
        self.look(process)

    def whole_history(self, worker: Worker) -> dict[Key, int]:
        seen = {}
        for subject in SUBJECTS:
            answer = worker.do("history", subject, None, None, None)
            assert answer[0] == "done", answer
            for entry in answer[1]:
                seen[(subject, entry.meter, entry.start // DAY)] = entry.amount
        return seen

    def swap_the_ledger(self, restore: bool) -> None:
        ledger = os.path.join(self.store, "ledger.db")
        for end in ("-wal", "-shm", ""):
            if os.path.exists(ledger + end):
                os.remove(ledger + end)
        if restore and self.backup is not None:
            shutil.copyfile(self.backup, ledger)

    def left_by_backup(self, world: World, restore: bool) -> dict[Key, int]:
        return dict(world.copied or {}) if restore and self.backup is not None else {}

    # A thread could be opening the ledger between the removal of two of its files.
    @precondition(lambda self: self.durability != "none" and not self.thread)
    @rule(number=st.integers(0, 2), restore=st.booleans(), alive=st.booleans())
    def replace_the_ledger(self, number: int, restore: bool, alive: bool) -> None:
        if not alive:
            self.end_all(tidily=False)
        before = [(self.left_by_backup(world, restore)) for world in self.worlds]
        self.swap_the_ledger(restore)
        process = self.processes[number]
        worlds = self.worlds
        for world, copied in zip(worlds, before, strict=True):
            world.flushed.clear()
            world.flushed.update(copied)
            world.least = copied
        if not restore:
            self.backup = None
        self.do(process, "flush")
        seen = self.whole_history(self.enter(self.processes[(number + 1) % 3]))
        worlds = [
            after
            for world in self.worlds
            for after in world.adopt(seen, world.least, world.surely_in_region())
        ]
        self.narrow(worlds, [("after the ledger was replaced", restore, seen)])
        self.look(process)

    @precondition(lambda self: self.durability != "none")
    @rule(number=st.integers(0, 2))
    def go_back_to_the_backup(self, number: int) -> None:
        if self.backup is None:
            return
        self.end_all(tidily=False)
        self.swap_the_ledger(restore=True)
        os.remove(os.path.join(self.store, "region"))
        for world in self.worlds:
            world.totals.clear()
            world.totals.update(self.left_by_backup(world, True))
        self.start_anew(number, lambda world: self.left_by_backup(world, True))

    # ---- the end ---------------------------------------------------------------------

    def audit(self) -> None:
        first, second, _ = self.processes
        for process in (first, second):
            self.look(process)
            self.do(process, "subjects")
            self.do(process, "limits")
            for subject in SUBJECTS:
                self.do(process, "history", subject, None, None, None)
            self.do(process, "verify")
            self.do(process, "flush")

    def teardown(self) -> None:
        try:
            if self.worlds and not self.broken:
                self.audit()
        finally:
            for process in self.processes:
                if process.worker is not None:
                    process.worker.kill()
            shutil.rmtree(self.directory)


def test_the_store_is_the_one_in_the_manual() -> None:
    print(f"seed {SEED}, {EXAMPLES} runs of {STEPS} steps")
    machine = seed(SEED)(StoreMachine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            report_multiple_bugs=False,
            phases=(Phase.generate, Phase.shrink),
        ),
    )
    print(StoreMachine.counts)
    assert StoreMachine.counts["of them unanswered"] > 0
