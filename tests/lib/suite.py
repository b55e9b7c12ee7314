# SPDX-License-Identifier: GPL-2.0-or-later
"""What the programs with guests share: snapshots, checks, and running them.

A failed test prints what QEMU and the guest said as TAP comments.  Nothing
is left behind: every QEMU is ended, every setting of the kernel set back,
every snapshot removed (unless --keep).
"""

import argparse
import contextlib
import dataclasses
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
import hostlock
import options
import tap
from guest import (Guest, LinuxGuest, MEM_MIN_MIB, ProbeGuest, UNIFORM,
                   WORKING_SET)
from host import PlainError
from qmp import QmpError
from restore import Restore, boot, boot_and_save, save
from tap import Failed, Skip, check, comment
from vm import Argument, Machine, Qemu, has_fast_load
from waiting import VmError

ARRANGED_TRIES = 3
# A bug of QEMU's own, under TCG: a vCPU looks up an address while the memory
# map changes.  Seen in QEMU 10.0 while a guest boots, without any load.
QEMU_FAULT = "iotlb_to_section: Assertion"
QEMU_FAULT_TRIES = 3
LEFT_MAX_S = 360            # huge pages are put together after completion
VERIFIED_MIN = 300
STDERR_MAX_S = 5            # until our thread has read what QEMU wrote
SMALL_FILL_MIB = 96
# The snapshots of the small guest.  In HOME it was told to keep to its working
# set, so that most pages stay missing however long a case takes, until the
# case says UNIFORM.
HOME = "home-small"
SMALL = ("small", HOME)
VMS_SHOWN = 2               # of a failed case, the last ones

# Reading ahead takes minutes, so pages are missing until lift_limit(); yet
# something is read now and then, so that failing storage is noticed.
SLOW = {"max-postcopy-bandwidth": 64 << 10}
# Nothing is read ahead: until lift_limit(), only pages that the guest or the
# test touches are loaded, however slow the machine is.
TOUCHED_ALONE = {"max-postcopy-bandwidth": 1}

# The words for tap.case() that say what a case needs.
FAST = "fast"               # a QEMU with fast load
LINUX = "linux"             # Linux in the guest, for its drivers
LONG = "long"               # minutes, so it runs only with --long
QUICK = "quick"             # a processor that is not interpreted
PROBE = "probe"             # the probe guest, which does what Linux does not
EVERYWHERE = "everywhere"   # nothing: it is one of the cases that --few runs

GUESTS = ("probe", "linux")
ACCELS = ("tcg", "kvm")
KVM_MAX_S = 20              # until the probe guest speaks, if it ever does
# A processor that takes longer to fill 1 MiB is interpreted: hardware takes
# 1 ms for all words of each page, an interpreter about a second.
INTERPRETED_FILL_MS = 100
INTERPRETED_WORDS = 4       # of each page, then
INTERPRETED_FILL_MIB = 32


# -------------------------------------------------------- guests, processors

class Ground:
    """One kind of guest: its two machines and their snapshots."""

    def __init__(self, qemu: str, guest: Guest, folder: Path,
                 machine: Machine, small: Machine) -> None:
        self.qemu = qemu
        self.guest = guest
        self.folder = folder
        self.machine = machine
        self.small_machine = small
        self.made: dict[str, Path] = {}

    def _make_big(self) -> None:
        """One boot, two snapshots: one saved running, one saved paused."""
        running, paused = self.folder / "running", self.folder / "paused"
        with boot(self.qemu, self.machine) as vm:
            vm.verified_more(1000)
            save(vm, running)
            vm.qmp("cont")
            vm.verified_more(1000)
            save(vm, paused, paused=True)
            check(vm.wrong_max == 0, "wrong pages before any restore")
        self.made.update(running=running, paused=paused)

    def _make_small(self, name: str) -> None:
        path = self.folder / name
        boot_and_save(self.qemu, self.small_machine, path, run_s=0.2,
                      order=WORKING_SET if name == HOME else UNIFORM)
        self.made[name] = path

    def snapshot(self, name: str) -> Path:
        if name not in self.made:
            begin = time.monotonic()
            self.folder.mkdir(exist_ok=True)
            if name in SMALL:
                self._make_small(name)
            else:
                self._make_big()
            comment(f"snapshot {name} of the {self.guest.name}: "
                    f"{self.made[name].stat().st_blocks >> 11} MiB of data "
                    f"in {self.made[name].stat().st_size >> 20} MiB, made "
                    f"in {time.monotonic() - begin:.1f} s")
        return self.made[name]


class KvmBroken(PlainError):
    """/dev/kvm is there, and no guest runs with it."""


def is_kvm_interpreted(qemu: str) -> bool:
    """Whether KVM here is slow; KvmBroken when the guest does not even speak.

    Where hardware does not virtualise, /dev/kvm may be a module that executes
    a guest's instructions one by one.
    """
    machine = Machine(ProbeGuest.build(), mem_mib=256, fill_mib=1, cpus=1,
                      accel="kvm")
    with Qemu(qemu, machine.args()) as vm:
        try:
            vm.greet()
            ready = vm.wait_ready(KVM_MAX_S)
        except VmError as e:
            raise KvmBroken(f"KVM does not work here: {e}") from None
    return ready["fill_ms"] > INTERPRETED_FILL_MS


# ------------------------------------------------------------------ the stage

class Suite:
    """Snapshots made when first asked for, and the QEMU they belong to."""

    def __init__(self, chosen: argparse.Namespace, folder: Path) -> None:
        self.qemu: str = chosen.qemu
        self.choice: list[str] = chosen.choice  # says which QEMU, and why
        self.folder = folder
        self.options = chosen
        self.accel: str = chosen.accel
        self.restores: int = chosen.restores
        self.vms: list[Qemu] = []       # of the case that runs
        self._host = contextlib.ExitStack()     # as it is, while one runs
        self.is_interpreted = (self.accel == "kvm" and
                               is_kvm_interpreted(self.qemu))
        self._grounds: dict[str, Ground] = {}
        self._ground = self.ground(chosen.guest)
        self.has_fast_load = has_fast_load(self.qemu)

    def ground(self, name: str) -> Ground:
        """The Ground of the guest of that name, made when first needed."""
        if name not in self._grounds:
            guest: Guest
            small_mib, fill_mib = SMALL_FILL_MIB, self.options.fill
            if name == "linux":
                guest = LinuxGuest.build()
            else:
                probe = guest = ProbeGuest.build()
                if self.is_interpreted:
                    guest = dataclasses.replace(probe, words=INTERPRETED_WORDS)
                    small_mib = fill_mib = INTERPRETED_FILL_MIB
            machine = Machine(guest, mem_mib=self.options.mem,
                              fill_mib=fill_mib, accel=self.accel)
            self._grounds[name] = Ground(
                self.qemu, guest, self.folder / name, machine,
                machine.but(mem_mib=256, fill_mib=small_mib, seed=2))
        return self._grounds[name]

    @property
    def guest(self) -> Guest:
        return self._ground.guest

    @property
    def machine(self) -> Machine:
        return self._ground.machine

    @property
    def small_machine(self) -> Machine:
        return self._ground.small_machine

    @property
    def missing_min_bytes(self) -> int:
        """At least missing when the small guest begins to run with SLOW."""
        return (self.small_machine.fill_mib << 20) * 2 // 3

    # -- as tap.Stage

    def begin(self, case: tap.Case) -> None:
        self.vms.clear()
        if FAST in case.needs and not self.has_fast_load:
            raise Skip("this QEMU has no fast load")
        if LONG in case.needs and not self.options.long:
            raise Skip("this case takes minutes; --long runs it")
        if self.accel == "kvm":
            if self.is_interpreted and QUICK in case.needs:
                raise Skip("KVM interprets the guest here, which is too slow "
                           "for this case")
            if self.is_interpreted and LINUX in case.needs:
                raise Skip("KVM interprets the guest here, which is too slow "
                           "for Linux")
        self._ground = self.ground("linux" if LINUX in case.needs else
                                   self.options.guest)
        self._host.enter_context(hostlock.shared())

    def run(self, case: tap.Case) -> None:
        """Run a case; run it again when QEMU ended by its bug QEMU_FAULT."""
        for left in reversed(range(QEMU_FAULT_TRIES)):
            try:
                case.function(self)
                return
            except VmError as e:
                if QEMU_FAULT not in str(e) or not left:
                    raise
                comment(f"{e}: QEMU's own bug; the case runs again")
                self._end_vms()
                self.vms.clear()

    def expected(self, error: Exception) -> bool:
        return isinstance(error, PlainError)

    def diagnostics(self) -> Iterable[str]:
        return [line for vm in self.vms[-VMS_SHOWN:]
                for line in vm.diagnostics()]

    def end(self) -> None:
        self._end_vms()
        self._host.close()

    def _end_vms(self) -> None:
        for vm in self.vms:
            vm.close()

    # -- snapshots

    def snapshot(self, name: str = "running") -> Path:
        return self._ground.snapshot(name)

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
        """A cold snapshot of another machine, by boot_and_save(**how)."""
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
        """A Restore() of the snapshot of that name, or of the file `path`."""
        machine = machine or (self.small_machine if name in SMALL
                              else self.machine)
        r = Restore(qemu or self.qemu, machine, path or self.snapshot(name),
                    **options)
        self.vms.append(r.vm)
        return r

    def placed_for_nobody(self, folder: Path) -> tuple[str, Machine, Path]:
        """Copies that the user "nobody" can read.

        They are QEMU, the small machine and its snapshot.
        """
        if self.accel == "kvm" and not host.is_open_to_everybody("/dev/kvm"):
            raise Skip("an ordinary user may not open /dev/kvm here")
        folder.chmod(0o755)

        def place(source: str | Path) -> str:
            return host.place_for_everybody(source, folder)
        return (place(self.qemu),
                self.small_machine.but(guest=self.guest.placed(place)),
                Path(place(self.snapshot("small"))))


# ----------------------------------------------------------------- the checks

def arranged(attempt: Callable[[], object]) -> None:
    """Try ARRANGED_TRIES times to bring about the situation that is tested.

    @attempt: returns None when the situation occurred, else the reason why it
    did not.  It checks by itself what must hold, each time.

    Raises Skip when the situation never occurred: nothing was tested.
    """
    text: object = None
    for count in range(1, ARRANGED_TRIES + 1):
        text = attempt()
        if not text:
            return
        comment(f"attempt {count} of {ARRANGED_TRIES}: {text}")
    raise Skip(f"the situation to test did not occur: {text}")


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


def check_runs_first(r: Restore) -> None:
    """The guest ran before all was loaded, which is what fast load is for."""
    names = [event.name if event.name != "MIGRATION" else event.data["status"]
             for event in list(r.vm.events)]
    check(names.index("RESUME") < names.index("completed"),
          f"the guest ran only when all was loaded: {', '.join(names)}")


def recover(r: Restore, uri: str) -> None:
    """Have a paused load go on with another file, out of band.

    QmpError when the command is refused, or when the recovery fails.
    """
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
    """Wait until the load's threads and descriptors are gone."""
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

def check_fast(suite: Suite, *, threads: int = 2, cold: bool = True,
               backend: str | None = None, name: str = "running",
               **how: Any) -> Restore:
    """Restore a running guest fast, and check everything that must hold."""
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
            check_runs_first(r)
        check_statistics(r, threads, backend)
        r.vm.verified_more(VERIFIED_MIN)
        r.vm.io_goes_on()
        sweep_ok(r.vm, suite.small_machine if name in SMALL
                 else suite.machine)
        comment(f"resident {r.vm.memory_mib('Rss')} MiB, of that "
                f"{r.vm.memory_mib('AnonHugePages')} MiB in huge pages; "
                f"{r.vm.cpu_seconds():.1f} s of CPU time")
        if r.how == "defer":
            check_nothing_left(r)
        return r


# ------------------------------------------------------------- what is said

def words_ok(text: str, pattern: str) -> None:
    """Check that the text is a sentence, and matches the pattern."""
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
    """The whole error: @text (error-desc) may only be the end of it.

    QEMU may have written its beginning to stderr.  Another thread reads that,
    so the pattern may arrive a moment later.
    """
    def is_there() -> bool:
        return bool(re.search(pattern, text + r.vm.stderr(), re.I | re.S))

    with contextlib.suppress(VmError):      # words_ok() says what is there
        r.vm.wait_for("words on stderr", is_there, STDERR_MAX_S)
    seen = r.vm.stderr().strip()
    return seen if text in seen else f"{text}\n{seen}"


def refused(suite: Suite, pattern: str, path: Path | None = None, *,
            name: str = "small", by_qemu: bool = False, **how: Any) -> None:
    """The load fails with a clear text, with exit-on-error and without.

    by_qemu: the text is QEMU's own; error-desc may have only its end.
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
    parser.add_argument("--guest", choices=GUESTS, default="probe",
                        help="what runs the cases that do not need Linux "
                             "(probe)")
    parser.add_argument("--accel", choices=ACCELS, default="tcg",
                        help="what executes the guest (tcg)")
    parser.add_argument("--few", action="store_true",
                        help="run only the few cases that run on every guest "
                             "and every accelerator")
    parser.add_argument("--long", action="store_true",
                        help="run also the cases that take minutes")
    parser.add_argument("--dir", type=Path, help="where snapshots go")
    parser.add_argument("--keep", action="store_true",
                        help="keep the snapshots")
    chosen = parser.parse_args()
    if chosen.few:
        tap.CASES[:] = [case for case in tap.CASES if EVERYWHERE in case.needs]
    if chosen.guest == "linux":
        tap.CASES[:] = [case for case in tap.CASES if PROBE not in case.needs]
    chosen.cases = tap.chosen_cases(parser, chosen)
    if chosen.list:
        return chosen
    options.check_fill(parser, chosen.mem, chosen.fill)
    chosen.choice = []
    chosen.qemu = options.require_qemu(parser, chosen.choice.append)
    options.check_accel(parser, chosen.accel)
    chosen.dir = options.snapshot_folder(parser, chosen.dir)
    return chosen


def about(suite: Suite) -> list[str]:
    """The lines with which the output begins."""
    machine = suite.machine
    return [" ".join([f"QEMU: {suite.qemu}", *suite.choice]),
            f"guest: {suite.guest.name}, {machine.mem_mib} MiB, "
            f"{machine.fill_mib} MiB filled, {machine.cpus} vCPUs, "
            f"{machine.accel}" +
            (", which interprets it" if suite.is_interpreted else "")]


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
    except KvmBroken as e:
        print(f"1..0 # SKIP {e}")
    except PlainError as e:
        print(f"Bail out! {e}")
        failed = 1
    finally:
        if chosen.keep:
            comment(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)
