# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in cgroups: limits that exist, and limits that options ask for."""

import contextlib
import os
from pathlib import Path
import re
import signal
from typing import Iterator

from bench.gate import Gate
from bench.places import as_nobody, is_root
from bench.results import all_counted, scenarios
from bench.stage import (
    ENDLESS, MADE, MIB, TINY, Bench, Child, Done, all_ours, has_guest,
    one_sentence, wait_until)
from tap import Failed, Skip, case, check


def cgroup_parent(controller: str) -> tuple[Path, bool]:
    """Where a cgroup with @controller can be made; is it version 2?"""
    if not is_root():
        raise Skip("only root can make a cgroup")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, options = (part.split() for part in line.split(" - "))
        folder = Path(words[4])
        if options[0] == "cgroup" and controller in options[2].split(","):
            return folder, False
        control = folder / "cgroup.subtree_control"
        if options[0] == "cgroup2" and control.exists() and \
                controller in control.read_text().split():
            return folder, True
    raise Skip(f"no cgroup with the controller {controller} can be made")


@contextlib.contextmanager
def limited_cgroup(controller: str, name_v2: str, name_v1: str,
                   value: str) -> Iterator[tuple[str, ...]]:
    """The first words of a command that runs its other words in a cgroup."""
    parent, is_v2 = cgroup_parent(controller)
    folder = parent / f"bench-smoke-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as e:
        raise Skip(f"no cgroup can be made: {e}") from e
    try:
        (folder / (name_v2 if is_v2 else name_v1)).write_text(value)
        yield ("sh", "-ec", 'echo $$ > "$0"/cgroup.procs; exec "$@"',
               str(folder))
    finally:
        def is_removed() -> bool:
            with contextlib.suppress(OSError):      # while it has processes
                folder.rmdir()
            return not folder.exists()

        wait_until("end of the cgroup's processes", is_removed)


def memory_cgroup(limit_bytes: int) -> \
        contextlib.AbstractContextManager[tuple[str, ...]]:
    return limited_cgroup("memory", "memory.max", "memory.limit_in_bytes",
                          str(limit_bytes))


@case("a guest that fits into its cgroup is measured, memory touched first")
def fits_into_cgroup(bench: Bench) -> None:
    with memory_cgroup(300 * MIB) as before:
        result = bench.measured(
            *TINY, "--size", "128M", "--memory", "touched", "--cache", "cold",
            "--contenders", "eager,mmap", before=before)
    all_counted(result, 1)
    limit = result["environment"]["cgroup_memory_bytes"]
    check(limit == 300 * MIB, f"the limit is {limit}")


@case("a guest too large for its cgroup is refused before any run")
def too_large_for_cgroup(bench: Bench) -> None:
    with memory_cgroup(300 * MIB) as before:
        bench.refused(2, r"--size: .* 256 MiB.*limit of this cgroup, 300 MiB"
                      r".*choose (1\d\d|2[0-3]\d) MiB", *TINY,
                      "--size", "16M,256M", before=before)
        path = bench.generated("--size", "256M", "--zero-share", "100%")
        bench.refused(2, "limit of this cgroup", *TINY, "--snapshot", path,
                      before=before)


@case("a run that the cgroup's limit ends is not blamed on the contender")
def killed_by_cgroup(bench: Bench) -> None:
    gate = Gate(bench)
    with memory_cgroup(300 * MIB) as before:
        child = bench.start(
            *TINY, "--size", "96M", "--zero-share", "0", "--cache", "warm",
            "--contenders", "eager", *gate.options, before=before)
        gate.wait_for_run(child)    # so it was found to be large enough
        limit = Path(before[-1]) / "memory.max"
        if not limit.exists():
            limit = Path(before[-1]) / "memory.limit_in_bytes"

        def is_lowered() -> bool:
            with contextlib.suppress(OSError):      # while more is in use
                limit.write_text(str(60 * MIB))
                return True
            return False

        bench.wait_for("lower limit", child, is_lowered)
        gate.open()
        done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}")
    all_ours(done)
    check("memory limit of its cgroup, 60 MiB" in done.err,
          "stderr does not say who ended it")
    check("signal 9" not in done.err, "it is blamed")


def boxes(child: Child) -> list[str]:
    """The cgroups that @child has made for its runs."""
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup")
            if folder.endswith(f"/fastload-bench-{child.pid}")]


def boxed_run(bench: Bench, *args: object) -> Child:
    """A program that limits its runs, once the guest of one runs."""
    child = bench.start(*TINY, *MADE, *ENDLESS, "--cache", "warm",
                        "--contenders", "eager", *args)

    def is_boxed(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return has_guest(pid) and f"/fastload-bench-{child.pid}\n" in \
                Path(f"/proc/{pid}/cgroup").read_text()
        return False

    try:
        bench.wait_for("run with limits", child, lambda: any(
            map(is_boxed, bench.processes())))
    except Failed:
        for done in bench.runs:
            needs_boxes(done)
        raise
    return child


def needs_boxes(done: Done) -> None:
    """Skips where a program has said that it can make no cgroup."""
    if "need a cgroup of their own" in done.err:
        raise Skip(f"no cgroup can be made here: {done.err.strip()}")


def gone(child: Child) -> None:
    wait_until("end of the cgroups", lambda: not boxes(child))


@case("a quota of more CPUs than there are is refused")
def quota_of_too_many(bench: Bench) -> None:
    percent = 100 * (os.cpu_count() or 1) + 1
    if percent > 6400:
        raise Skip("no quota is as large as this machine")
    bench.refused(2, f"--cpu-quota: {percent} % limits nothing", *TINY, *MADE,
                  "--cpu-quota", f"{percent}%")


@case("--cpu-quota and --memory-max limit the runs, and leave nothing")
def limits_hold(bench: Bench) -> None:
    limits = ("--cpu-quota", "150%", "--memory-max", "256M")
    child = boxed_run(bench, *limits)
    found = {name: (Path(folder) / name).read_text().split()
             for folder in boxes(child)
             for name in ("cpu.max", "cpu.cfs_quota_us", "memory.max",
                          "memory.limit_in_bytes")
             if (Path(folder) / name).exists()}
    child.send_signal(signal.SIGINT)
    bench.finish(child)
    check(["150000"] in found.values() or ["150000", "100000"] in
          found.values(), f"the quota: {found}")
    check([str(256 * MIB)] in found.values(), f"the limit: {found}")
    gone(child)
    result = bench.measured(*TINY, *MADE, "--cache", "warm", "--contenders",
                            "eager", *limits)
    all_counted(result, 1)
    knobs = scenarios(result)[0]["knobs"]
    check((knobs["cpu_quota"], knobs["memory_max"]) == ("150 %", "256 MiB"),
          f"knobs: {knobs}")


@case("a limited run's cgroup goes also when the program is killed")
def limits_go(bench: Bench) -> None:
    for number in signal.SIGKILL, signal.SIGINT:
        child = boxed_run(bench, "--cpu-quota", "none,50%,100%")
        os.killpg(child.pid, number)
        bench.finish(child)
        gone(child)
        bench.nothing_left()


@case("a run that --memory-max ends is told so, and others go on")
def memory_max_ends(bench: Bench) -> None:
    child = bench.start(*TINY, "--size", "48M", "--zero-share", "0", "--cache",
                        "warm", "--contenders", "eager", "--memory-max",
                        "32M,none")
    done = bench.finish(child)
    needs_boxes(done)
    check(done.code == 1, f"exit code {done.code}")
    check(re.search("eager: killed by the kernel, for the memory limit of its "
                    "cgroup, 32 MiB", done.err), f"it says {done.err!r}")
    check(re.search("^  eager +", done.out, re.M), "none went on")
    gone(child)


@case("limits that are not permitted are refused before any run")
def limits_refused(bench: Bench) -> None:
    done = as_nobody(bench, *TINY, *MADE, "--cpu-quota", "50%")
    if done.code == 0:
        raise Skip("this user may make cgroups")
    one_sentence(done, 1, "--cpu-quota and --memory-max need a cgroup.*"
                 "run as root")
    check(done.out == "", "it has run")
