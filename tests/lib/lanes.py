# SPDX-License-Identifier: GPL-2.0-or-later
"""Run jobs side by side, so that one that waits leaves no processor idle.

A job begins when a lane is free, the jobs that it needs have ended well, and
nothing runs that it must not run beside; among those that may begin it is the
first of the list.  A job whose need has failed is not run, and has failed too.

What a job may run beside follows from what it does to the host (Host).
"""

import enum
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

from step import Step, Stopped, tell
from tapreader import Score


# A signal that comes just before Python waits is seen only after the wait.
SIGNAL_MAX_S = 1
ENDING_SIGNALS = signal.SIGINT, signal.SIGTERM


class Host(enum.Enum):
    """What a job does to the settings of the kernel, and to huge pages."""
    ALONE = "alone"         # it takes from every program what that may need
    # It changes some, but its cases wait for others of its like: hostlock.
    LOCKS = "locks"
    MINDS = "minds"         # what another one changes may make it fail
    IGNORES = "ignores"


class Job(NamedTuple):
    name: str
    run: Callable[[Score], None]
    host: Host = Host.IGNORES
    needs: tuple[str, ...] = ()     # names of jobs before it in the list


def with_needs(jobs: Sequence[Job], names: Iterable[str]) -> list[Job]:
    """The jobs of those names, and those that they need, in the same order."""
    wanted = set(names)
    for job in reversed(jobs):
        if job.name in wanted:
            wanted.update(job.needs)
    return [job for job in jobs if job.name in wanted]


def may_run_beside(job: Job, other: Job) -> bool:
    both = {job.host, other.host}
    return Host.ALONE not in both and (Host.IGNORES in both or len(both) == 1)


class Lanes:
    """Runs a list of jobs, at most @count at a time."""

    def __init__(self, jobs: Sequence[Job], count: int) -> None:
        self._waiting = list(jobs)
        self._count = count
        self._running: list[Job] = []
        self._changed = threading.Condition()   # guards the two above
        self._scores = {job.name: Score() for job in jobs}

    def score(self) -> Score:
        """Of all that has run so far, in the order of the list."""
        score = Score()
        for one in self._scores.values():
            score.add(one)
        return score

    def run(self) -> None:
        """Returns when all have ended; a signal's exception passes through."""
        with self._changed:
            while self._waiting or self._running:
                job = self._next()
                if job:
                    self._begin(job)
                else:
                    self._changed.wait(SIGNAL_MAX_S)

    def wait(self) -> None:
        """For those that run; none begins any more."""
        with self._changed:
            self._waiting.clear()
            while self._running:
                self._changed.wait()

    def _next(self) -> Job | None:
        unfinished = {job.name for job in self._running + self._waiting}
        for job in self._waiting:
            if unfinished.isdisjoint(job.needs) and \
                    len(self._running) < self._count and \
                    all(may_run_beside(job, other) for other in self._running):
                return job
        return None

    def _begin(self, job: Job) -> None:
        self._waiting.remove(job)
        for need in job.needs:
            if self._scores[need].failed:
                text = f"{job.name}: not run, because '{need}' failed"
                self._scores[job.name].fail(text)
                tell(text)
                return
        self._running.append(job)
        threading.Thread(target=self._run, args=(job,), daemon=True).start()

    def _run(self, job: Job) -> None:
        score = self._scores[job.name]
        try:
            job.run(score)
        except Stopped:
            pass
        except Exception as error:
            tell(*traceback.format_exc().splitlines())
            score.fail(f"{job.name}: {type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._running.remove(job)
                self._changed.notify_all()


def _on_term(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def run_jobs(jobs: Sequence[Job], count: int) -> int:
    """Run them, and print the score; the exit code of the program."""
    lanes = Lanes(jobs, count)
    for number in ENDING_SIGNALS:
        signal.signal(number, _on_term)
    try:
        lanes.run()
        score = lanes.score()
        code = score.exit_code()
    except KeyboardInterrupt:
        # Ending programs takes a while; a second signal must not cut it off.
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        tell("interrupted: what runs is ended")
        Step.stop_all()
        lanes.wait()
        score = lanes.score()
        score.fail("interrupted")
        code = 130
    tell(*score.ending())
    return code
