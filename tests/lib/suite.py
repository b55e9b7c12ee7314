# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs with guests share: snapshots, checks, and running them.

A failed test prints what QEMU and the guest said as TAP comments.  Nothing
is left behind: every QEMU is ended, every setting of the kernel set back,
every snapshot removed (unless --keep).
"""

import argparse
import contextlib
import json
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Iterable, Iterator, Sequence

import host
import options
import tap
from guest import LinuxGuest, MEM_MIN_MIB
from host import PlainError
from qmp import QmpError
from restore import Restore, boot, boot_and_save, save
from tap import Failed, Skip, check, comment
from vm import Argument, Machine, Qemu, has_fast_load
from waiting import VmError

RESUME_MAX_S = 0.250        # a guest that ran later was not fast-loaded
TIME_TRIES = 3
# Under TCG a vCPU's lookup meets a change of the memory map: seen in QEMU 10.0
# while a guest boots, without any load.
QEMU_FAULT = "iotlb_to_section: Assertion"
QEMU_FAULT_TRIES = 3
LEFT_MAX_S = 60             # huge pages are put together after completion
BUSY_LOAD = 3               # for each processor; the tests alone make 2
VERIFIED_MIN = 300
STDERR_MAX_S = 5            # until what QEMU has written there is read
VMS_SHOWN = 2               # of a failed case, the last ones

# So slow that pages are missing until the test wants them.
SLOW = {"max-postcopy-bandwidth": 64 << 10}

# What a case needs, as tap.case() has it.
FAST = "fast"               # a QEMU with fast load
LINUX = "linux"             # Linux in the guest, whose drivers do something
ON_BOTH = "both"            # no need: run it on Linux as well as on another


# ------------------------------------------------------------------ the stage

class Suite:
    """Snapshots made when first asked for, and the QEMU they belong to."""

    def __init__(self, chosen: argparse.Namespace, folder: Path) -> None:
        self.qemu: str = chosen.qemu
        self.choice: list[str] = chosen.choice  # which QEMU, and why
        self.guest = LinuxGuest.build()
        self.folder = folder
        self.restores: int = chosen.restores
        self.vms: list[Qemu] = []       # of the case that runs
        self.machine = Machine(self.guest, mem_mib=chosen.mem,
                               fill_mib=chosen.fill)
        self.small_machine = Machine(self.guest, mem_mib=256, fill_mib=96,
                                     seed=2)
        self._made: dict[str, Path] = {}
        self.has_fast_load = has_fast_load(self.qemu)

    # -- as tap.Stage

    def begin(self, case: tap.Case) -> None:
        self.vms.clear()
        if FAST in case.needs and not self.has_fast_load:
            raise Skip("this QEMU has no fast load")

    def run(self, case: tap.Case) -> None:
        """Again when QEMU ended by the fault of its own that we know."""
        for left in reversed(range(QEMU_FAULT_TRIES)):
            try:
                case.function(self)
                return
            except VmError as e:
                if QEMU_FAULT not in str(e) or not left:
                    raise
                comment(f"{e}: not of the load; once more")
                self.end()
                self.vms.clear()

    def expected(self, error: Exception) -> bool:
        return isinstance(error, PlainError)

    def diagnostics(self) -> Iterable[str]:
        return [line for vm in self.vms[-VMS_SHOWN:]
                for line in vm.diagnostics()]

    def end(self) -> None:
        for vm in self.vms:
            vm.close()

    # -- snapshots

    def _make_big(self) -> None:
        """One boot, two snapshots: one saved running, one saved paused."""
        running, paused = self.folder / "running", self.folder / "paused"
        with boot(self.qemu, self.machine) as vm:
            time.sleep(1)
            save(vm, running)
            vm.qmp("cont")
            vm.verified_more(1000)
            save(vm, paused, paused=True)
            check(vm.wrong_max == 0, "wrong pages before any restore")
        self._made.update(running=running, paused=paused)

    def _make_small(self) -> None:
        path = self.folder / "small"
        boot_and_save(self.qemu, self.small_machine, path, run_s=0.2)
        self._made["small"] = path

    def snapshot(self, name: str = "running") -> Path:
        if name not in self._made:
            begin = time.monotonic()
            if name == "small":
                self._make_small()
            else:
                self._make_big()
            comment(f"snapshot {name}: "
                    f"{self._made[name].stat().st_blocks >> 11} MiB of data "
                    f"in {self._made[name].stat().st_size >> 20} MiB, made "
                    f"in {time.monotonic() - begin:.1f} s")
        return self._made[name]

    @contextlib.contextmanager
    def changed_copy(self, change: Callable[[Path], object],
                     name: str = "small") -> Iterator[Path]:
        """A copy of a snapshot, after change(path)."""
        path = self.folder / "changed"
        subprocess.run(["cp", "--reflink=auto", "--sparse=always",
                        self.snapshot(name), path], check=True)
        try:
            change(path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def saved(self, machine: Machine, *, qemu: Argument | None = None,
              **how: Any) -> Iterator[Path]:
        """A cold snapshot of another machine; the rest as boot_and_save()."""
        path = self.folder / "own"
        try:
            boot_and_save(qemu or self.qemu, machine, path, run_s=0.1, **how)
            make_cold(path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    # -- QEMU

    def start(self, args: Sequence[Argument]) -> Qemu:
        """A QEMU that restores nothing."""
        vm = Qemu(self.qemu, args)
        self.vms.append(vm)
        return vm

    def restore(self, name: str = "running", *, path: Path | None = None,
                machine: Machine | None = None,
                qemu: Argument | None = None, **options: Any) -> Restore:
        """As Restore(): the named snapshot, if no path says another one."""
        machine = machine or (self.small_machine if name == "small"
                              else self.machine)
        r = Restore(qemu or self.qemu, machine, path or self.snapshot(name),
                    **options)
        self.vms.append(r.vm)
        return r

    def placed_for_nobody(self, folder: Path) -> tuple[str, Machine, Path]:
        """QEMU, the small machine and its snapshot, where anybody can go."""
        folder.chmod(0o755)

        def place(source: str | Path) -> str:
            return host.place_for_everybody(source, folder)
        return (place(self.qemu),
                self.small_machine.but(guest=self.guest.placed(place)),
                Path(place(self.snapshot("small"))))


# ----------------------------------------------------------------- the checks

def check_time(attempt: Callable[[], object]) -> None:
    """One of TIME_TRIES attempts is in time.

    @attempt: says what came too late, or nothing.  It checks by itself, each
    time, whatever has nothing to do with time.

    The machine may be held up at any moment, but not each time; a fault of
    ours comes again.  One with too much to do says nothing of time at all.
    """
    text: object = None
    for count in range(1, TIME_TRIES + 1):
        text = attempt()
        if not text:
            return
        comment(f"attempt {count} of {TIME_TRIES}: {text}")
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    check(load > BUSY_LOAD * processors, str(text))
    comment(f"{text}; but the load is {load:.1f} on {processors} "
            "processors, so this proves nothing")


def make_cold(path: Path) -> None:
    left = host.drop_cache(path)
    if left:
        comment(f"not entirely cold: {left >> 10} KiB stayed in the page "
                "cache")
    check(left < host.CACHE_LEFT_BYTES_MAX,
          f"the page cache keeps {left >> 20} MiB")


def sweep_ok(vm: Qemu, machine: Machine) -> None:
    """Every page that the guest filled is right."""
    result = vm.sweep()
    check(result["wrong"] == 0, f"{result['wrong']} wrong pages")
    pages = machine.fill_mib * 256
    check(result["pages"] == pages,
          f"the sweep saw {result['pages']} pages, not {pages}")


def check_order(r: Restore, *expected: str) -> None:
    seen = [s for _, s in r.statuses() if s != "setup"]
    check(seen == list(expected),
          f"status went {' -> '.join(seen)}, not {' -> '.join(expected)}")


def recover(r: Restore, uri: str) -> None:
    """From a copy, out of band; QmpError when it is refused, now or later."""
    start = len(r.vm.events)
    r.vm.qmp_oob("migrate-recover", 10, uri=uri)
    event = r.vm.wait_event("X_FAST_LOAD_RECOVERED", 30, start=start)
    why = event.data.get("error-desc")
    if why:
        raise QmpError(why)


def check_statistics(r: Restore, threads: int,
                     backend: str | None = None) -> None:
    fast = r.fast_load()
    comment("fast-load: " + json.dumps(fast))
    check(fast, "query-migrate has no fast-load")
    check(fast["threads"] == threads, f"{fast['threads']} threads")
    check(fast["read-backend"] in ("io-uring", "preadv"),
          f"read-backend is {fast['read-backend']}")
    if backend:
        check(fast["read-backend"] == backend,
              f"read-backend is {fast['read-backend']}, not {backend}")
    check(fast["remaining-bytes"] == 0,
          f"{fast['remaining-bytes']} bytes remain after completion")
    loaded = sum(fast[k + "-bytes"]
                 for k in ("zero", "urgent", "hint", "background"))
    check(loaded == fast["total-bytes"],
          f"zero + loaded is {loaded}, total is {fast['total-bytes']}")
    check(fast["error-count"] == 0, f"{fast['error-count']} errors")
    check(fast.get("fault-latency-p50-us", 0) <=
          fast.get("fault-latency-p95-us", 0) <=
          fast.get("fault-latency-p99-us", 0) <=
          fast.get("fault-latency-max-us", 0), "latencies are not in order")


def check_nothing_left(r: Restore) -> None:
    """Workers and their descriptors, the snapshot's too, go with the load."""
    deadline = time.monotonic() + LEFT_MAX_S
    while True:
        threads = r.vm.threads("fastload")
        fds, before = r.vm.descriptors(r.snapshot), r.descriptors_before
        more = {k: fds[k] - before.get(k, 0) for k in fds
                if fds[k] > before.get(k, 0)}
        if not threads and not more:
            return
        if time.monotonic() > deadline:
            raise Failed(f"left after the load: threads {threads}, "
                         f"descriptors {more}")
        time.sleep(0.05)


# ------------------------------------------------------------ whole restores

def check_fast(suite: Suite, *, resume_max_s: float = RESUME_MAX_S,
               **how: Any) -> Restore:
    """A fast restore of a running guest, which runs in time; the last one."""
    done: list[Restore] = []

    def attempt() -> str | None:
        r = restored_fast(suite, **how)
        done.append(r)
        run_s = r.run_s()
        # Started by command line, QEMU's own start is in it.
        if r.how == "defer" and run_s is not None and run_s > resume_max_s:
            return f"the guest ran only after {run_s * 1000:.0f} ms"
        return None
    check_time(attempt)
    return done[-1]


def restored_fast(suite: Suite, *, threads: int = 2, cold: bool = True,
                  backend: str | None = None, name: str = "running",
                  **how: Any) -> Restore:
    """All but the time, from the first byte to a sweep."""
    path = suite.snapshot(name)
    if backend is None and host.io_uring_is_permitted():
        backend = "io-uring"
    if cold:
        make_cold(path)
    else:
        host.warm_cache(path)
    with suite.restore(name, threads=threads, **how) as r:
        run_s = r.wait_running()
        output_s = r.wait_output()
        completed_s = r.wait_completed()
        comment(f"{'cold' if cold else 'warm'}, {threads} threads: runs at "
                f"{run_s * 1000:.1f} ms, first output at "
                f"{output_s * 1000:.1f} ms, completed at {completed_s:.3f} s,"
                f" worst touch {r.vm.worst_us} us")
        if r.how == "defer":
            check_order(r, "active", "postcopy-active", "completed")
        check_statistics(r, threads, backend)
        r.vm.verified_more(VERIFIED_MIN)
        r.vm.io_goes_on()
        sweep_ok(r.vm, suite.small_machine if name == "small"
                 else suite.machine)
        comment(f"resident {r.vm.memory_mib('Rss')} MiB, of that "
                f"{r.vm.memory_mib('AnonHugePages')} MiB in huge pages; "
                f"{r.vm.cpu_seconds():.1f} s of CPU time")
        if r.how == "defer":
            check_nothing_left(r)
        return r


# ------------------------------------------------------------- what is said

def words_ok(text: str, pattern: str) -> None:
    """The text is a sentence, and has the pattern in it."""
    lines = [line for line in text.splitlines() if line.strip()]
    comment("says: " + (" | ".join(lines) or "(nothing)"))
    check(lines, "the failure has no text")
    check(len(text.split()) >= 4, "the text is not a sentence")
    check(re.search(pattern, text, re.I | re.S),
          f"the text does not match /{pattern}/")


@contextlib.contextmanager
def refusal(pattern: str) -> Iterator[None]:
    """The monitor refuses a command in here, with a sentence."""
    try:
        yield
    except QmpError as e:
        words_ok(str(e), pattern)
    else:
        raise Failed(f"it was accepted, and not refused with /{pattern}/")


def all_said(text: str, r: Restore, pattern: str) -> str:
    """error-desc is the end of a chain whose begin may be on stderr.

    Which is read by another thread: the pattern may come after error-desc.
    """
    def is_there() -> bool:
        return bool(re.search(pattern, text + r.vm.stderr(), re.I | re.S))

    with contextlib.suppress(VmError):      # words_ok() says what is there
        r.vm.wait_for("words on stderr", is_there, STDERR_MAX_S)
    seen = r.vm.stderr().strip()
    return seen if text in seen else f"{text}\n{seen}"


def refused(suite: Suite, pattern: str, path: Path | None = None, *,
            name: str = "small", by_qemu: bool = False, **how: Any) -> None:
    """Fails in each way that exit-on-error asks for, with a clear text.

    by_qemu: the text is QEMU's own, of which error-desc may have the end only.
    """
    for exit_on_error in (False, True):
        with suite.restore(name, path=path, threads=2,
                           exit_on_error=exit_on_error, **how) as r:
            text, code = r.wait_failed(30)
            words_ok(all_said(text, r, pattern) if by_qemu else text, pattern)
            check(code != 0, "QEMU ended with exit code 0")
            check(r.run_s() is None, "the guest ran before the load failed")
            if code is None:
                check(r.vm.run_state() != "running",
                      "the guest runs after a failed load")
                check_nothing_left(r)
            else:
                check(exit_on_error, f"QEMU exited ({code}), though "
                      "exit-on-error is off")
                check(code == 1, f"QEMU ended with exit code {code}")


# ------------------------------------------------------------------ running

def parse_options(doc: str) -> argparse.Namespace:
    full = os.environ.get("FASTLOAD_FULL") == "1"
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    tap.add_options(parser)
    parser.add_argument("--restores", type=options.at_least(1),
                        default=50 if full else 10,
                        help="how many restores in a row (10; 50 with "
                             "FASTLOAD_FULL=1)")
    parser.add_argument("--mem", type=options.at_least(MEM_MIN_MIB),
                        default=1024, metavar="MiB")
    parser.add_argument("--fill", type=options.at_least(1), default=700,
                        metavar="MiB")
    parser.add_argument("--dir", type=Path, help="where snapshots go")
    parser.add_argument("--keep", action="store_true",
                        help="keep the snapshots")
    chosen = parser.parse_args()
    chosen.cases = tap.chosen_cases(parser, chosen)
    if chosen.list:
        return chosen
    options.check_fill(parser, chosen.mem, chosen.fill)
    chosen.choice = []
    chosen.qemu = options.require_qemu(parser, chosen.choice.append)
    chosen.dir = options.snapshot_folder(parser, chosen.dir)
    return chosen


def about(suite: Suite) -> list[str]:
    """What the TAP begins with."""
    machine = suite.machine
    return [" ".join([f"QEMU: {suite.qemu}", *suite.choice]),
            f"guest: {suite.guest.name}, {machine.mem_mib} MiB, "
            f"{machine.fill_mib} MiB filled, {machine.cpus} vCPUs"]


def main(doc: str) -> None:
    """Run the cases that the program defined; @doc is its docstring."""
    chosen = parse_options(doc)
    if chosen.list:
        print("\n".join(case.name for case in chosen.cases))
        return
    need_mib = 4 * chosen.mem
    if host.disk_available_mib(chosen.dir) < need_mib or \
            host.memory_available_mib() < 2 * chosen.mem:
        print(f"1..0 # SKIP needs {need_mib} MiB in {chosen.dir} and "
              f"{2 * chosen.mem} MiB of memory")
        return
    tap.catch_signals()
    folder = Path(tempfile.mkdtemp(prefix=f"{Path(sys.argv[0]).name}-",
                                   dir=chosen.dir))
    failed = 0
    try:
        suite = Suite(chosen, folder)
        failed = tap.run(suite, chosen.cases, about(suite))
    except PlainError as e:
        print(f"Bail out! {e}")
        failed = 1
    finally:
        if chosen.keep:
            comment(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)
