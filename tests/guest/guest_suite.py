# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest tests share: cases, snapshots, checks, and running them.

A failed test prints what QEMU and the guest said as TAP comments.  Nothing
is left behind: every QEMU is ended, every setting of the kernel set back,
every snapshot removed (unless --keep).
"""

import argparse
import contextlib
import ctypes
import json
import os
from pathlib import Path
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import qemu_vm
from qemu_vm import Machine, QmpError, Restore, VmError

CASE_TIMEOUT_S = 180
RESUME_MAX_S = 0.250        # a guest that ran later was not fast-loaded
TIME_TRIES = 3
# Under TCG a vCPU's lookup meets a change of the memory map: seen in QEMU 10.0
# while a guest boots, without any load.
QEMU_FAULT = "iotlb_to_section: Assertion"
LEFT_MAX_S = 60             # huge pages are put together after completion
BUSY_LOAD = 3               # for each processor; the tests alone make 2
VERIFIED_MIN = 300
FAST = "fast"               # marks the cases that need fast load

CASES = []


class Skip(Exception):
    """This case cannot run here; the text says why."""


class Failed(Exception):
    """The case ran, and something is not as it must be."""


class CaseTimeout(Exception):
    pass


def case(name, *needs, timeout=CASE_TIMEOUT_S):
    def add(function):
        CASES.append((name, function, needs, timeout))
        return function
    return add


def check(condition, text):
    if not condition:
        raise Failed(text)


def check_time(attempt):
    """One of TIME_TRIES attempts is in time.

    @attempt: says what came too late, or nothing.  It checks by itself, each
    time, whatever has nothing to do with time.

    The machine may be held up at any moment, but not each time; a fault of
    ours comes again.  One with too much to do says nothing of time at all.
    """
    for count in range(1, TIME_TRIES + 1):
        text = attempt()
        if not text:
            return
        comment(f"attempt {count} of {TIME_TRIES}: {text}")
    load, processors = os.getloadavg()[0], os.cpu_count()
    check(load > BUSY_LOAD * processors, text)
    comment(f"{text}; but the load is {load:.1f} on {processors} "
            "processors, so this proves nothing")


def comment(text):
    for line in str(text).splitlines() or [""]:
        print("# " + line, flush=True)


# ------------------------------------------------------------------ the stage

class Suite:
    """Snapshots made when first asked for, and the QEMU they belong to."""

    def __init__(self, options, folder):
        self.choice = []        # which QEMU, and why
        self.qemu = qemu_vm.find_qemu(self.choice.append)
        self.guest = qemu_vm.build_guest()
        self.folder = folder
        self.restores = options.restores
        self.vms = []           # Qemu objects of the case that runs
        self.machine = Machine(self.guest, mem_mib=options.mem,
                               fill_mib=options.fill)
        self.small_machine = Machine(self.guest, mem_mib=256, fill_mib=96,
                                     seed=2)
        self._made = {}
        self.has_fast_load = qemu_vm.has_fast_load(self.qemu)

    def _make_big(self):
        """One boot, two snapshots: one saved running, one saved paused."""
        running, paused = self.folder / "running", self.folder / "paused"
        with qemu_vm.boot(self.qemu, self.machine) as vm:
            time.sleep(1)
            qemu_vm.save(vm, running)
            vm.qmp("cont")
            vm.verified_more(1000)
            qemu_vm.save(vm, paused, paused=True)
            check(vm.wrong_max == 0, "wrong pages before any restore")
        self._made.update(running=running, paused=paused)

    def _make_small(self):
        path = self.folder / "small"
        qemu_vm.boot_and_save(self.qemu, self.small_machine, path, run_s=0.2)
        self._made["small"] = path

    def snapshot(self, name="running"):
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

    def restore(self, name="running", *, machine=None, **options):
        machine = machine or (self.small_machine if name == "small"
                              else self.machine)
        path = options.pop("path", None) or self.snapshot(name)
        r = Restore(options.pop("qemu", self.qemu), machine, path, **options)
        self.vms.append(r.vm)
        return r

    @contextlib.contextmanager
    def changed_copy(self, change, name="small"):
        """A copy of a snapshot, after change(path)."""
        path = self.folder / "changed"
        subprocess.run(["cp", "--reflink=auto", "--sparse=always",
                        self.snapshot(name), path], check=True)
        try:
            change(path)
            yield path
        finally:
            path.unlink(missing_ok=True)


def ram_blocks(path):
    """The snapshot's RAM blocks by name: (length, bitmap's offset, pages')."""
    blocks = {}
    with open(path, "rb") as f:
        at = f.read(1 << 16).index(b"\x06pc.ram")
        f.seek(at - 8)
        left = int.from_bytes(f.read(8), "big") & ~0xfff
        while left > 0:
            f.seek(at)
            name = f.read(f.read(1)[0]).decode()
            length = int.from_bytes(f.read(8), "big")
            # version and page size, then the offsets
            header = f.read(28)
            if header[:4] != b"\0\0\0\1":      # x-ignore-shared: an address
                header = header[8:] + f.read(8)
            _, _, bitmap, pages = struct.unpack(">IQQQ", header)
            blocks[name] = length, bitmap, pages
            at = pages + length
            left -= length
    return blocks


def ram_offsets(path):
    """Where bitmap and pages of the largest block begin in the snapshot."""
    return ram_blocks(path)["pc.ram"][1:]


def make_cold(path):
    left = qemu_vm.drop_cache(path)
    if left:
        comment(f"not entirely cold: {left >> 10} KiB stayed in the page "
                "cache")
    check(left < (16 << 20), f"the page cache keeps {left >> 20} MiB")


def sweep_ok(vm, machine):
    result = vm.sweep()
    check(result["wrong"] == 0, f"{result['wrong']} wrong pages")
    pages = machine.fill_mib * 256
    check(result["pages"] == pages,
          f"the sweep saw {result['pages']} pages, not {pages}")
    return result


def io_goes_on(vm):
    """The guest's virtio devices answer."""
    before = vm.tick.get("io", 0)
    vm.wait_for("virtio requests to be answered",
                lambda: vm.tick.get("io", 0) > before, 30)


def check_order(r, *expected):
    seen = [s for _, s in r.statuses() if s != "setup"]
    check(seen == list(expected),
          f"status went {' -> '.join(seen)}, not {' -> '.join(expected)}")


def recover(r, uri):
    """From a copy, out of band; QmpError when it is refused, now or later."""
    start = len(r.vm.events)
    r.vm.reply(r.vm.send("migrate-recover", oob=True, uri=str(uri)),
               "migrate-recover", 10)
    event = r.vm.wait_event("X_FAST_LOAD_RECOVERED", 30, lambda d: True,
                            start=start)
    why = event.text["data"].get("error-desc")
    if why:
        raise QmpError(why)


def io_uring_is_permitted():
    """By trying: sysctl, seccomp and an old kernel look the same to QEMU."""
    io_uring_setup, params_bytes = 425, 120
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(io_uring_setup, 1,
                      ctypes.create_string_buffer(params_bytes))
    if fd < 0:
        return False
    os.close(fd)
    return True


def check_statistics(r, threads, backend=None):
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
    return fast


def check_nothing_left(r):
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


def check_fast(suite, *, resume_max_s=RESUME_MAX_S, **options):
    """A fast restore of a running guest, which runs in time; the last one."""
    done = []

    def attempt():
        done.append(restored_fast(suite, **options))
        # Started by command line, QEMU's own start is in it.
        if done[-1].how == "defer" and done[-1].run_s() > resume_max_s:
            return (f"the guest ran only after {done[-1].run_s() * 1000:.0f} "
                    "ms")
        return None
    check_time(attempt)
    return done[-1]


def restored_fast(suite, *, threads=2, cold=True, backend=None,
                  name="running", **options):
    """All but the time, from the first byte to a sweep."""
    path = suite.snapshot(name)
    backend = backend or ("io-uring" if io_uring_is_permitted() else None)
    if cold:
        make_cold(path)
    else:
        qemu_vm.warm_cache(path)
    with suite.restore(name, threads=threads, **options) as r:
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
        io_goes_on(r.vm)
        sweep_ok(r.vm, suite.small_machine if name == "small"
                 else suite.machine)
        comment(f"resident {r.vm.memory_mib('Rss')} MiB, of that "
                f"{r.vm.memory_mib('AnonHugePages')} MiB in huge pages; "
                f"{r.vm.cpu_seconds():.1f} s of CPU time")
        if r.how == "defer":
            check_nothing_left(r)
        return r


# ------------------------------------------------------------- what is said

def words_ok(text, pattern):
    lines = [line for line in text.splitlines() if line.strip()]
    comment("says: " + (" | ".join(lines) or "(nothing)"))
    check(lines, "the failure has no text")
    check(len(text.split()) >= 4, "the text is not a sentence")
    check(re.search(pattern, text, re.I | re.S),
          f"the text does not match /{pattern}/")


def all_said(text, r):
    """error-desc is the end of a chain whose begin may be on stderr."""
    seen = r.vm.stderr().strip()
    return seen if text in seen else f"{text}\n{seen}"


def refused(suite, pattern, path=None, *, by_qemu=False, **options):
    """Fails in each way that exit-on-error asks for, with a clear text.

    by_qemu: the text is QEMU's own, of which error-desc may have the end only.
    """
    name = options.pop("name", "small")
    for exit_on_error in (False, True):
        with suite.restore(name, path=path, threads=2,
                           exit_on_error=exit_on_error, **options) as r:
            text, code = r.wait_failed(30)
            words_ok(all_said(text, r) if by_qemu else text, pattern)
            check(code != 0, "QEMU ended with exit code 0")
            check(r.run_s() is None, "the guest ran before the load failed")
            if code is None:
                check(r.vm.qmp("query-status")["status"] != "running",
                      "the guest runs after a failed load")
                check_nothing_left(r)
            else:
                check(exit_on_error, f"QEMU exited ({code}), though "
                      "exit-on-error is off")
                check(code == 1, f"QEMU ended with exit code {code}")


@contextlib.contextmanager
def setting(path, value):
    """A file of /proc/sys or /sys that is set back at the end."""
    try:
        before = path.read_text()
        path.write_text(value)
    except OSError as e:
        raise Skip(f"cannot set {path}: {e.strerror}") from None
    try:
        yield
    finally:
        # Of several words, the one in brackets is what is set.
        chosen = re.search(r"\[(\w+)\]", before)
        path.write_text(chosen[1] if chosen else before)


def sysctl(name, value):
    return setting(Path("/proc/sys") / name, value)


@contextlib.contextmanager
def folder_in(place):
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield folder


@contextlib.contextmanager
def network_store(path, *filters, plugin="file"):
    """The snapshot as a file that nbdfuse gets from nbdkit's plugin."""
    with folder_in("/var/tmp") as folder, \
            tempfile.TemporaryFile() as errors:
        mount = Path(folder) / "snapshot"
        mount.touch()
        plain = [word for word in filters if word.startswith("--")]
        values = [word for word in filters if not word.startswith("--")]
        try:
            child = subprocess.Popen(
                ["nbdfuse", mount, "--command", "nbdkit", "-s", "-r", *plain,
                 plugin, path, *values], stderr=errors)
        except FileNotFoundError:
            raise Skip("nbdfuse is not installed") from None
        try:
            until = time.monotonic() + 10
            while not os.path.ismount(mount):
                if child.poll() is not None or time.monotonic() > until:
                    errors.seek(0)
                    raise Skip("nbdfuse does not mount: " +
                               errors.read().decode())
                time.sleep(0.05)
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", mount], check=False,
                           stderr=subprocess.DEVNULL)
            child.terminate()
            child.wait()


def _place_for_nobody(source, folder):
    target = Path(folder) / Path(source).name
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    return str(target)


def placed_for_nobody(suite, folder):
    """QEMU, the small machine and its snapshot, where anybody can go."""
    os.chmod(folder, 0o755)
    guest = dict(suite.guest)
    for name in "kernel", "initrd":
        guest[name] = _place_for_nobody(guest[name], folder)
    return (_place_for_nobody(suite.qemu, folder),
            suite.small_machine.but(guest=guest),
            _place_for_nobody(suite.snapshot("small"), folder))


# ------------------------------------------------------------------ running

def on_alarm(signum, frame):
    raise CaseTimeout()


def on_term(signum, frame):
    sys.exit("ended by a signal")


def run_function(suite, function):
    """A case; again when QEMU ended by the fault of its own that we know."""
    for left in (2, 1, 0):
        try:
            function(suite)
            return
        except VmError as e:
            if QEMU_FAULT not in str(e) or not left:
                raise
            comment(f"{e}: not of the load; once more")
            for vm in suite.vms:
                vm.close()
            suite.vms.clear()


def run_case(suite, number, name, function, needs, timeout):
    begin = time.monotonic()
    suite.vms.clear()
    verdict, why = "ok", ""
    signal.alarm(timeout)
    try:
        if FAST in needs and not suite.has_fast_load:
            raise Skip("this QEMU has no fast load")
        run_function(suite, function)
    except Skip as e:
        why = f" # SKIP {e}"
    except CaseTimeout:
        verdict = "not ok"
        comment(f"not done after {timeout} s")
    except (VmError, Failed) as e:
        verdict = "not ok"
        comment(e)
    except Exception:                       # a fault of the test itself
        verdict = "not ok"
        comment(traceback.format_exc())
    finally:
        signal.alarm(0)
        for vm in suite.vms:
            vm.close()
    if verdict != "ok":
        for vm in suite.vms[-2:]:
            for line in vm.diagnostics():
                comment("  " + line)
    print(f"{verdict} {number} - {name}{why}", flush=True)
    comment(f"{time.monotonic() - begin:.1f} s")
    return verdict == "ok"


def parse_options(doc):
    full = os.environ.get("FASTLOAD_FULL") == "1"
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    parser.add_argument("--restores", type=qemu_vm.at_least(1),
                        default=50 if full else 10,
                        help="how many restores in a row (10; 50 with "
                             "FASTLOAD_FULL=1)")
    parser.add_argument("--mem", type=qemu_vm.at_least(qemu_vm.MEM_MIN_MIB),
                        default=1024, metavar="MiB")
    parser.add_argument("--fill", type=qemu_vm.at_least(1), default=700,
                        metavar="MiB")
    parser.add_argument("--only", type=qemu_vm.regex, metavar="REGEX",
                        help="run these cases")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--dir", type=Path, help="where snapshots go")
    parser.add_argument("--keep", action="store_true",
                        help="keep the snapshots")
    options = parser.parse_args()
    options.chosen = [c for c in CASES
                      if not options.only or options.only.search(c[0])]
    if not options.chosen:
        parser.error(f"no case matches '{options.only.pattern}'; --list names "
                     "them")
    if options.list:
        return options
    qemu_vm.check_fill(parser, options.mem, options.fill)
    qemu_vm.check_given_qemu(parser)
    options.dir = options.dir or qemu_vm.cache_dir() / "guest"
    try:
        options.dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        parser.error(f"snapshots cannot go to {options.dir}: {e.strerror}")
    return options


def main(doc):
    """Run the cases that the program defined; @doc is its docstring."""
    options = parse_options(doc)
    chosen, base = options.chosen, options.dir
    if options.list:
        print("\n".join(c[0] for c in chosen))
        return
    need_mib = 4 * options.mem
    if qemu_vm.disk_available_mib(base) < need_mib or \
            qemu_vm.memory_available_mib() < 2 * options.mem:
        print(f"1..0 # SKIP needs {need_mib} MiB in {base} and "
              f"{2 * options.mem} MiB of memory")
        return
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_term)
    prefix = f"{Path(sys.argv[0]).name}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    failed = 0
    try:
        suite = Suite(options, folder)
        print("TAP version 13")
        print(f"1..{len(chosen)}", flush=True)
        comment(" ".join([f"QEMU: {suite.qemu}", *suite.choice]))
        comment(f"guest: {suite.guest['release']}, {suite.machine.mem_mib} "
                f"MiB, {suite.machine.fill_mib} MiB filled, "
                f"{suite.machine.cpus} vCPUs")
        for number, entry in enumerate(chosen, 1):
            failed += not run_case(suite, number, *entry)
        if failed:
            comment(f"{failed} of {len(chosen)} failed")
    except VmError as e:
        print(f"Bail out! {e}")
        failed += 1
    finally:
        if options.keep:
            comment(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)
