# SPDX-License-Identifier: GPL-2.0-or-later
"""Start QEMU, talk to its monitor and its guest, save and restore.

What is here is shared by the demo and the guest tests; it judges nothing.
Times are seconds of the monotonic clock, taken when a line arrives.

Every wait has a bound and ends at once when QEMU dies.  A Qemu is a context
manager: leaving it ends the process, whatever happened inside, and the
kernel kills it should this process die first.

Needs Python 3.11 or later and nothing but its standard library.
"""

import argparse
import ctypes
import json
import mmap
import os
from pathlib import Path
import pwd
import re
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
# Where Debian keeps firmware: a QEMU run from its build tree may not know.
FIRMWARE_DIRS = ("/usr/share/seabios", "/usr/share/qemu",
                 "/usr/lib/ipxe/qemu")
REPLY_TIMEOUT_S = 120
PAGE_BYTES = 4096
CACHE_LEFT_BYTES_MAX = 16 << 20
MADV_POPULATE_WRITE = 23
TOUCH_HOLD_S = 2.5
MEM_MIN_MIB = 384           # of a guest whose memory somebody may choose
KERNEL_MIB = 160            # that cannot be filled


class VmError(Exception):
    """QEMU or its guest did not do what was asked, in one sentence."""


class QmpError(VmError):
    """The monitor refused a command; the text is QEMU's own."""


class VmTimeout(VmError):
    """Something did not happen in time."""


# ------------------------------------------------------------- the options

def at_least(least):
    """A type for argparse: whole numbers, and not less."""
    def number(text):
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)
    return number


def regex(text):
    """Another one."""
    try:
        return re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no regular expression: {e}") from None


def check_fill(parser, mem_mib, fill_mib):
    if fill_mib > mem_mib - KERNEL_MIB:
        parser.error(f"{fill_mib} MiB to fill do not fit a guest of "
                     f"{mem_mib} MiB: at most {mem_mib - KERNEL_MIB} MiB do")


def check_given_qemu(parser):
    """$QEMU is as good as an option."""
    if os.environ.get("QEMU"):
        try:
            find_qemu()
        except VmError as e:
            parser.error(str(e))


# ---------------------------------------------------------------- the host

def find_qemu(tell=None):
    """$QEMU, or what the import script built; VmError when neither is.

    @tell: is called with a line that says which it is, and why.
    """
    path = os.environ.get("QEMU")
    if not path:
        script = TOP / "qemu" / "import"
        if not script.exists():
            raise VmError("no QEMU: set QEMU=path, or build one with "
                          "qemu/import")
        done = subprocess.run([script, "--print-qemu"], text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        path = done.stdout.strip()
        if not path:
            raise VmError(done.stderr.strip())
        if tell:
            tell(done.stderr.strip())
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise VmError(f"no QEMU at '{path}': set QEMU=path, or build one "
                      "with qemu/import")
    return path


def build_guest():
    """Make kernel and initramfs; the dict that build-guest prints."""
    done = subprocess.run([HERE / "build-guest"], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise VmError(done.stderr.strip() or "build-guest failed")
    return json.loads(done.stdout)


def cache_dir():
    base = os.environ.get("FASTLOAD_CACHE")
    if not base:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        base = Path(home) / "fastload"
    return Path(base)


def memory_available_mib():
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text).group(1)) // 1024


def disk_available_mib(path):
    return shutil.disk_usage(path).free >> 20


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
                       ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def cached_bytes(path):
    """How much of a file is in the page cache, by mincore()."""
    total = 0
    with open(path, "rb") as f:
        size = os.fstat(f.fileno()).st_size
        step = 1 << 30
        for file_off in range(0, size, step):
            length = min(step, size - file_off)
            # PROT_READ, MAP_SHARED: nothing is touched, so nothing is read
            at = _libc.mmap(None, length, 1, 1, f.fileno(), file_off)
            if at in (None, ctypes.c_void_p(-1).value):
                raise OSError(ctypes.get_errno(), "mmap", str(path))
            pages = (length + PAGE_BYTES - 1) // PAGE_BYTES
            vec = (ctypes.c_ubyte * pages)()
            done = _libc.mincore(at, length, vec)
            _libc.munmap(at, length)
            if done != 0:
                raise OSError(ctypes.get_errno(), "mincore", str(path))
            total += bytes(vec).count(1) * PAGE_BYTES
    return total


def drop_cache(path):
    """Make a file cold; the bytes that stayed in the page cache."""
    left = 0
    for _ in range(5):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left = cached_bytes(path)
        if left == 0:
            break
    return left


def warm_cache(path):
    """Read the data of a file (not its holes) into the page cache."""
    with open(path, "rb", buffering=0) as f:
        buf = bytearray(1 << 20)
        file_off, size = 0, os.fstat(f.fileno()).st_size
        while file_off < size:
            try:
                file_off = os.lseek(f.fileno(), file_off, os.SEEK_DATA)
                end = os.lseek(f.fileno(), file_off, os.SEEK_HOLE)
            except OSError:
                break
            os.lseek(f.fileno(), file_off, os.SEEK_SET)
            while file_off < end:
                got = f.readinto(buf)
                if not got:
                    break
                file_off += got


def set_cache(path, cache):
    """The file all in the page cache ("warm"), or out of it ("cold")."""
    if cache == "warm":
        warm_cache(path)
    elif drop_cache(path) > CACHE_LEFT_BYTES_MAX:
        raise VmError(f"{path} does not leave the page cache: who has it "
                      "open?")


def available_mib():
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"MemAvailable:\s+(\d+)", text).group(1)) >> 10


def touch_memory(mib):
    """What a host takes back from idle memory is dear at its next touch."""
    # In pieces first, from which the kernel takes small pages, then whole.
    held = []
    for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
        size = max(2, min(mib, available_mib() * 6 // 10))
        memory = mmap.mmap(-1, size << 20,
                           mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        memory.madvise(MADV_POPULATE_WRITE)
        held.append(memory)
    # As tools/fastload-bench/measure.c: when a pass of reporting has ended,
    # where the kernel counts them, the next one is two seconds away.
    counter = Path("/sys/module/page_reporting/parameters/passes")
    passes = counter.read_text() if counter.exists() else ""
    deadline = time.monotonic() + TOUCH_HOLD_S
    memory.madvise(mmap.MADV_DONTNEED, 0, 2 << 20)
    while time.monotonic() < deadline and \
            (not passes or counter.read_text() == passes):
        time.sleep(0.005)
    for memory in held:
        memory.close()


class HeldMemory:
    """As touch_memory(), for what takes seconds; see hold-memory."""

    def __init__(self):
        self._child = subprocess.Popen(
            [HERE / "hold-memory"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, preexec_fn=_die_with_parent)

    def _say(self, line):
        self._child.stdin.write(line)
        self._child.stdin.flush()
        if not self._child.stdout.readline():
            raise VmError("hold-memory has ended: too little memory?")

    def hold(self):
        self._say(b"hold\n")

    def let_go(self):
        self._say(b"go\n")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for pipe in (self._child.stdin, self._child.stdout):
            pipe.close()
        self._child.wait()


def _die_with_parent():
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# ---------------------------------------------------------------- one QEMU

class Line:
    """A serial line or a monitor event, with its time of arrival."""
    __slots__ = ("at", "text")

    def __init__(self, at, text):
        self.at = at
        self.text = text


class Qemu:
    """A QEMU process with a monitor and a serial port on socket pairs."""

    def __init__(self, binary, args, *, user=None, env=None, preexec=None,
                 pass_fds=()):
        self.events = []            # Line, text is the event's dict
        self.serial = []            # Line, text is str, a full line
        self.serial_first_at = None
        self.tick = {}              # figures of the last TICK
        self.wrong_max = 0          # highest "wrong" ever seen
        self.worst_us = 0           # longest touch since reset_worst()
        self._cond = threading.Condition()
        self._replies = {}
        self._next_id = 0
        self._greeting = None
        self._stderr = bytearray()
        self._buffers = {"qmp": b"", "serial": b""}

        qmp_here, qmp_there = socket.socketpair()
        ser_here, ser_there = socket.socketpair()
        self._qmp, self._ser = qmp_here, ser_here
        command = [binary]
        for firmware in FIRMWARE_DIRS:
            if os.path.isdir(firmware):
                command += ["-L", firmware]
        command += [
            "-chardev", f"socket,id=qmp0,fd={qmp_there.fileno()}",
            "-mon", "chardev=qmp0,mode=control",
            "-chardev", f"socket,id=ser0,fd={ser_there.fileno()}",
            "-serial", "chardev:ser0",
            *args]
        self.command = command

        def before_exec():
            _die_with_parent()
            if preexec:
                preexec()

        ids = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            ids = {"user": entry.pw_uid, "group": entry.pw_gid,
                   "extra_groups": []}
        self.started_at = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, preexec_fn=before_exec,
                env=dict(os.environ, **env) if env else None,
                pass_fds=(qmp_there.fileno(), ser_there.fileno(),
                          *pass_fds), **ids)
        except OSError as e:
            raise VmError(f"{binary}: {e.strerror}") from None
        finally:
            qmp_there.close()
            ser_there.close()
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- reading: one thread for monitor, serial port and stderr

    def _read_all(self):
        sel = selectors.DefaultSelector()
        sel.register(self._qmp, selectors.EVENT_READ, self._got_qmp)
        sel.register(self._ser, selectors.EVENT_READ, self._got_serial)
        sel.register(self.process.stderr, selectors.EVENT_READ,
                     self._got_stderr)
        while sel.get_map():
            for key, _ in sel.select():
                try:
                    data = os.read(key.fd, 65536)
                except OSError:
                    data = b""
                at = time.monotonic()
                with self._cond:
                    if data:
                        key.data(at, data)
                    else:
                        sel.unregister(key.fileobj)
                    self._cond.notify_all()
        sel.close()

    def _lines(self, which, data):
        *lines, self._buffers[which] = \
            (self._buffers[which] + data).split(b"\n")
        return lines

    def _got_qmp(self, at, data):
        for raw in self._lines("qmp", data):
            try:
                message = json.loads(raw)
            except ValueError:
                continue
            if "event" in message:
                self.events.append(Line(at, message))
            elif "QMP" in message:
                self._greeting = message
            else:
                self._replies[message.get("id")] = message

    def _got_serial(self, at, data):
        if self.serial_first_at is None:
            self.serial_first_at = at
        for raw in self._lines("serial", data):
            text = raw.decode(errors="replace").strip("\r")
            if text.startswith("FASTLOAD TICK "):
                self.tick = {k: int(v) for k, v in
                             re.findall(r"(\w+)=(\d+)", text)}
                self.wrong_max = max(self.wrong_max,
                                     self.tick.get("wrong", 0))
                self.worst_us = max(self.worst_us,
                                    self.tick.get("worst_us", 0))
            self.serial.append(Line(at, text))

    def _got_stderr(self, at, data):
        self._stderr += data

    # -- waiting

    def alive(self):
        return self.process.poll() is None

    def monitor_is_open(self):
        """Also of a daemon, whose process is not the one that was started."""
        return self._reader.is_alive()

    def stderr(self):
        with self._cond:
            return self._stderr.decode(errors="replace")

    def wait_for(self, what, probe, timeout):
        """The first true value of probe(), called with the lock held."""
        deadline = time.monotonic() + timeout
        with self._cond:
            while True:
                value = probe()
                if value:
                    return value
                gone = not self._reader.is_alive() or not self.alive()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise VmTimeout(f"waited {timeout:g} s for {what}")
                if gone and not self._reader.is_alive():
                    raise VmError(f"QEMU ended (exit code "
                                  f"{self.process.wait()}) before {what}: "
                                  f"{self._stderr.decode().strip()}")
                self._cond.wait(min(left, 0.5))

    def wait_event(self, name, timeout, accept=None, start=0):
        def probe():
            for line in self.events[start:]:
                if line.text["event"] == name and \
                        (accept is None or accept(line.text.get("data", {}))):
                    return line
            return None
        return self.wait_for(f"the event {name}", probe, timeout)

    def wait_line(self, pattern, timeout, start=0):
        """The first serial line after index `start` that matches."""
        compiled = re.compile(pattern)
        seen = [start]

        def probe():
            while seen[0] < len(self.serial):
                line = self.serial[seen[0]]
                seen[0] += 1
                if compiled.search(line.text):
                    return line
                if line.text.startswith("FASTLOAD FAIL"):
                    raise VmError("the guest says: " + line.text[9:])
            return None
        return self.wait_for(f"'{pattern}' from the guest", probe, timeout)

    def wait_exit(self, timeout):
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise VmTimeout(f"QEMU still runs after {timeout:g} s") from None
        self._reader.join(5)
        return code

    # -- monitor and guest

    def send(self, command, *, oob=False, **arguments):
        """Send a command without waiting; the id of its reply.

        oob: out of band, which works while the main loop waits for a page.
        """
        with self._cond:
            self._next_id += 1
            ident = self._next_id
        message = {"exec-oob" if oob else "execute": command, "id": ident}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v
                                    for k, v in arguments.items()}
        try:
            self._qmp.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass                    # the wait for the reply tells the reason
        return ident

    def reply(self, ident, what, timeout=REPLY_TIMEOUT_S):
        message = self.wait_for(f"the reply to {what}",
                                lambda: self._replies.pop(ident, None),
                                timeout)
        if "error" in message:
            raise QmpError(message["error"]["desc"])
        return message["return"]

    def qmp(self, command, timeout=REPLY_TIMEOUT_S, **arguments):
        return self.reply(self.send(command, **arguments), command, timeout)

    def greet(self, timeout=30):
        greeting = self.wait_for("the monitor's greeting",
                                 lambda: self._greeting, timeout)
        offered = greeting["QMP"].get("capabilities", [])
        self.qmp("qmp_capabilities", timeout,
                 enable=[c for c in offered if c == "oob"])

    def set_capabilities(self, **states):
        self.qmp("migrate-set-capabilities", capabilities=[
            {"capability": k.replace("_", "-"), "state": v}
            for k, v in states.items()])

    def say(self, byte):
        self._ser.sendall(byte)

    def reset_worst(self):
        with self._cond:
            self.worst_us = 0

    def sweep(self, timeout=180):
        """Have the guest check every page; {"pages": n, "wrong": n, ...}."""
        with self._cond:
            start = len(self.serial)
        self.say(b"s")
        line = self.wait_line(r"^FASTLOAD SWEEP ", timeout, start)
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", line.text)}

    def verified_more(self, count, timeout=60):
        """Wait until the guest has checked so many more pages."""
        def figure():
            return self.tick.get("verified")
        begin = self.wait_for("a TICK", figure, timeout)
        return self.wait_for(f"{count} more verified pages",
                             lambda: figure() - begin >= count and figure(),
                             timeout)

    def quiet_for(self, seconds):
        """True when the guest writes nothing for that long."""
        with self._cond:
            before = len(self.serial)
        time.sleep(seconds)
        with self._cond:
            return len(self.serial) == before

    # -- what the process holds

    def main_thread_waits_in(self):
        """The kernel function in which the main loop sleeps, for root."""
        pid = self.process.pid
        try:
            return Path(f"/proc/{pid}/task/{pid}/wchan").read_text()
        except OSError:
            return "?"

    def threads(self, prefix):
        names = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/comm"):
            try:
                names.append(task.read_text().strip())
            except OSError:
                pass
        return [n for n in names if n.startswith(prefix)]

    def descriptors(self, path=None):
        """How many userfaultfd, io_uring, and of this file, are open."""
        found = {"userfaultfd": 0, "io_uring": 0, "snapshot": 0}
        folder = f"/proc/{self.process.pid}/fd"
        for fd in os.listdir(folder):
            try:
                target = os.readlink(f"{folder}/{fd}")
            except OSError:
                continue
            for kind in found:
                if f"[{kind}]" in target:
                    found[kind] += 1
            found["snapshot"] += target == str(path)
        return found

    def cpu_seconds(self, vcpus=True):
        """Of the process, ended threads too, perhaps without the vCPUs."""
        def of(folder):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])
        process = Path(f"/proc/{self.process.pid}")
        ticks = of(process)
        if not vcpus:
            ticks -= sum(of(process / "task" / str(cpu["thread-id"]))
                         for cpu in self.qmp("query-cpus-fast"))
        return ticks / os.sysconf("SC_CLK_TCK")

    def vcpu_times(self):
        """Of the vCPUs: now, ran, and was ready to run; seconds, summed."""
        found = [time.monotonic(), 0.0, 0.0]
        for cpu in self.qmp("query-cpus-fast"):
            path = f"/proc/{self.process.pid}/task/{cpu['thread-id']}"
            ran_ns, ready_ns, _ = Path(f"{path}/schedstat").read_text().split()
            found[1] += int(ran_ns) / 1e9
            found[2] += int(ready_ns) / 1e9
        return found

    def page_table_mib(self):
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmPTE:\s+(\d+)", text, re.M).group(1)) / 1024

    def memory_mib(self, field):
        """A field of smaps_rollup, such as Rss or AnonHugePages."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text,
                             re.M).group(1)) // 1024

    def disk_read_bytes(self):
        """What came from storage for this process, as the kernel counts."""
        text = Path(f"/proc/{self.process.pid}/io").read_text()
        return int(re.search(r"^read_bytes: (\d+)", text, re.M).group(1))

    # -- the end

    def close(self):
        """End QEMU: ask, then insist.  Never raises, never leaves it."""
        if self.process.poll() is None:
            self.send("quit")
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(5)
        for thing in (self._qmp, self._ser, self.process.stderr):
            thing.close()

    def diagnostics(self):
        """What a reader of a failed test wants to see, as lines."""
        with self._cond:
            out = ["command: " + " ".join(map(str, self.command)),
                   f"exit code: {self.process.poll()}"]
            out += ["stderr: " + line for line in
                    self._stderr.decode(errors="replace").splitlines()[-20:]]
            out += [f"event {e.at - self.started_at:.3f} s: "
                    f"{e.text['event']} {json.dumps(e.text.get('data', {}))}"
                    for e in self.events[-12:]]
            out += ["guest: " + line.text for line in self.serial
                    if "WRONG" in line.text or "FAIL" in line.text][:12]
            out += [f"guest {line.at - self.started_at:.3f} s: {line.text}"
                    for line in self.serial[-4:]]
        return out


# ------------------------------------------------------ machines, snapshots

class Machine:
    """What both ends of a snapshot must agree on."""

    def __init__(self, guest, *, mem_mib=1024, fill_mib=700, cpus=2,
                 zero_pct=10, seed=1, think_us=0, machine="q35",
                 accel="tcg", mem_more="", more=()):
        self.guest = guest
        self.mem_mib = mem_mib
        self.fill_mib = fill_mib
        self.cpus = cpus
        self.zero_pct = zero_pct
        self.seed = seed
        self.think_us = think_us
        self.machine = machine
        self.accel = accel
        self.mem_more = mem_more    # slots and maxmem, as of -m
        self.more = tuple(more)     # arguments of both ends

    def but(self, **changes):
        values = dict(vars(self))
        values.update(changes)
        return Machine(values.pop("guest"), **values)

    def args(self):
        append = (f"console=ttyS0 quiet panic=-1 tsc=reliable "
                  f"clocksource=tsc memhp_default_state=online "
                  f"fl.fill_mib={self.fill_mib} "
                  f"fl.zero_pct={self.zero_pct} fl.seed={self.seed} "
                  f"fl.think_us={self.think_us}")
        return [
            "-no-user-config", "-nodefaults", "-display", "none",
            "-M", self.machine, "-accel", self.accel,
            "-m", f"{self.mem_mib}M{self.mem_more}", "-smp", str(self.cpus),
            "-kernel", self.guest["kernel"], "-initrd", self.guest["initrd"],
            "-append", append,
            "-object", "rng-random,id=rng0,filename=/dev/urandom",
            "-device", "virtio-rng-pci,rng=rng0",
            "-blockdev",
            "null-co,node-name=disk0,size=1048576,read-zeroes=on",
            "-device", "virtio-blk-pci,drive=disk0",
            *self.more,
        ]


def version(qemu):
    """(major, minor) of a QEMU, for what one has and another has not."""
    done = subprocess.run([qemu, "--version"], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if not found:
        raise VmError(f"{qemu} does not say its version")
    return int(found[1]), int(found[2])


def has_fast_load(qemu):
    """Whether this QEMU knows x-fast-load-threads."""
    with Qemu(qemu, ["-M", "none", "-nodefaults", "-display", "none"]) as vm:
        vm.greet()
        return "x-fast-load-threads" in vm.qmp("query-migrate-parameters")


def kvm_works(qemu, guest, timeout=10):
    """Whether this guest says a word under KVM in a bounded time."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    machine = Machine(guest, mem_mib=256, fill_mib=16, accel="kvm")
    with Qemu(qemu, machine.args()) as vm:
        try:
            vm.wait_line(r"^FASTLOAD READY", timeout)
            return True
        except VmError:
            return False


def boot(qemu, machine, timeout=240, plug=None):
    """A running guest whose memory is filled, after plug(vm)."""
    vm = Qemu(qemu, machine.args())
    try:
        vm.greet()
        if plug:
            plug(vm)
        vm.wait_line(r"^FASTLOAD READY", timeout)
        vm.verified_more(100)
    except BaseException:
        vm.close()
        raise
    return vm


def save(vm, path, *, paused=False, timeout=240, uri=None,
         capabilities=None, parameters=None):
    """Write a mapped-ram snapshot to path, or to what uri says of it.

    Paused: the guest is stopped first and the snapshot says so.  Else it
    runs until its memory is written the first time, and is restored running.
    """
    if paused:
        vm.qmp("stop")
    vm.set_capabilities(mapped_ram=True, events=True, **(capabilities or {}))
    # A guest that writes all the time would never be done otherwise.
    vm.qmp("migrate-set-parameters", downtime_limit=2000 * 1000,
           max_bandwidth=0, **(parameters or {}))
    with vm._cond:
        start = len(vm.events)
    vm.qmp("migrate", uri=uri or f"file:{path}")

    def ended(data):
        return data.get("status") in ("completed", "failed")
    vm.wait_event("MIGRATION", timeout, ended, start)
    info = vm.qmp("query-migrate")
    if info["status"] != "completed":
        raise VmError(f"saving to {path}: {info.get('error-desc', info)}")
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return info


def boot_and_save(qemu, machine, path, *, run_s=1.0, plug=None, **how):
    """Boot, fill, let it run, save, quit; the guest's READY line.

    The rest is as of boot() and save().
    """
    with boot(qemu, machine, plug=plug) as vm:
        time.sleep(run_s)
        ready = vm.wait_line(r"^FASTLOAD READY", 1)
        save(vm, path, **how)
        if vm.wrong_max:
            raise VmError(f"{vm.wrong_max} wrong pages before the snapshot")
    return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", ready.text)}


class Restore:
    """A guest being restored.  Times are seconds since `t0`.

    threads: 0 for QEMU's own loader, else x-fast-load-threads.
    how: "defer" (t0 is when migrate-incoming is sent) or "cmdline" (t0 is
    when the process is started).
    before_incoming: is called with the Qemu right before migrate-incoming.
    """

    def __init__(self, qemu, machine, snapshot, *, threads=0, how="defer",
                 args=(), capabilities=None, parameters=None, uri=None,
                 exit_on_error=None, mapped_ram=True, before_incoming=None,
                 **qemu_options):
        self.threads = threads
        self.how = how
        self.info = {}
        self._seen_running = None
        self._seen_completed = None
        self.samples = []
        self.uri = uri or f"file:{snapshot}"
        self.snapshot = snapshot
        self.descriptors_before = {}
        self._incoming = None
        capabilities = dict(capabilities or {})
        parameters = dict(parameters or {})
        if threads:
            parameters["x-fast-load-threads"] = threads
        capabilities["events"] = True
        capabilities["mapped-ram"] = mapped_ram

        args = [*machine.args(), *args]
        if how == "cmdline":
            for name, on in capabilities.items():
                # capabilities without a stable property have an x- one
                name = name if name in ("mapped-ram",) else "x-" + name
                args += ["-global", f"migration.{name}={'on' if on else 'off'}"]
            for name, value in parameters.items():
                args += ["-global", f"migration.{name}={value}"]
            args += ["-incoming", self.uri]
        else:
            args += ["-incoming", "defer"]
        self.vm = Qemu(qemu, args, **qemu_options)
        self.t0 = self.vm.started_at
        try:
            if how == "cmdline":
                self.vm.greet(REPLY_TIMEOUT_S)
                return
            self.vm.greet()
            self.vm.set_capabilities(
                **{k.replace("-", "_"): v for k, v in capabilities.items()})
            if parameters:
                self.vm.qmp("migrate-set-parameters", **parameters)
            self.descriptors_before = self.vm.descriptors(snapshot)
            more = {} if exit_on_error is None else \
                {"exit_on_error": exit_on_error}
            if before_incoming:
                before_incoming(self.vm)
            self.t0 = time.monotonic()
            self._incoming = self.vm.send("migrate-incoming", uri=self.uri,
                                          **more)
        except BaseException:
            self.vm.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.vm.close()

    def accepted(self, timeout=REPLY_TIMEOUT_S):
        """Wait for the reply to migrate-incoming; QmpError if refused."""
        if self._incoming is not None:
            ident, self._incoming = self._incoming, None
            self.vm.reply(ident, "migrate-incoming", timeout)

    def _since(self, at):
        return None if at is None else at - self.t0

    def run_s(self):
        for line in list(self.vm.events):
            if line.text["event"] == "RESUME":
                return self._since(line.at)
        return self._seen_running

    def output_s(self):
        return self._since(self.vm.serial_first_at)

    def statuses(self):
        """[(seconds, status)] from the MIGRATION events."""
        return [(self._since(e.at), e.text["data"]["status"])
                for e in list(self.vm.events)
                if e.text["event"] == "MIGRATION"]

    def completed_s(self):
        for at, status in self.statuses():
            if status == "completed":
                return at
        return self._seen_completed

    def wait_running(self, timeout=120):
        """Wait until the guest runs; the seconds it took.

        Started by command line, the guest may run before there is a monitor
        to say so: then this is when it was first seen running.
        """
        self.accepted(timeout)
        if self.how == "cmdline":
            deadline = time.monotonic() + timeout
            while self.vm.qmp("query-status", timeout)["status"] != "running":
                if time.monotonic() > deadline:
                    raise VmTimeout(f"the guest does not run after "
                                    f"{timeout:g} s")
                time.sleep(0.005)
            self._seen_running = time.monotonic() - self.t0
        else:
            self.vm.wait_event("RESUME", timeout)
        return self.run_s()

    def wait_output(self, timeout=120):
        self.vm.wait_for("the guest's first output",
                         lambda: self.vm.serial_first_at, timeout)
        return self.output_s()

    def wait_completed(self, timeout=240, on_progress=None, poll_s=0.05):
        """Poll query-migrate until the load ended well.

        VmError with QEMU's own text when it failed.
        """
        self.accepted(timeout)
        deadline = time.monotonic() + timeout
        while True:
            self.info = self.vm.qmp("query-migrate", timeout)
            now = time.monotonic() - self.t0
            self.samples.append((now, self.info))
            status = self.info.get("status")
            if on_progress:
                on_progress(now, self.info, self.vm)
            if status == "completed":
                if self.how == "cmdline":
                    self._seen_completed = now
                else:
                    self.vm.wait_event(
                        "MIGRATION", 10,
                        lambda data: data.get("status") == "completed")
                return self.completed_s()
            if status == "failed":
                raise VmError("the load failed: " +
                              self.info.get("error-desc", "no reason given"))
            if time.monotonic() > deadline:
                raise VmTimeout(f"the load is still '{status}' after "
                                f"{timeout:g} s: {json.dumps(self.info)}")
            time.sleep(poll_s)

    def wait_failed(self, timeout=60):
        """The text with which the load failed, from wherever QEMU says it.

        (text, exit code or None).  VmError when it did not fail.
        """
        try:
            self.accepted(timeout)
        except QmpError as e:
            return str(e), None
        except VmTimeout:
            raise
        except VmError:
            return self.vm.stderr().strip(), self.vm.wait_exit(timeout)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                info = self.vm.qmp("query-migrate", timeout)
            except VmTimeout:
                raise
            except VmError:
                return self.vm.stderr().strip(), self.vm.wait_exit(timeout)
            if info.get("status") == "failed":
                return info.get("error-desc", ""), None
            if info.get("status") == "completed":
                raise VmError("the load completed, though it had to fail")
            time.sleep(0.05)
        raise VmTimeout(f"the load neither failed nor completed in "
                        f"{timeout:g} s: {json.dumps(info)}")

    def fast_load(self):
        """The statistics that fast load adds to query-migrate."""
        return self.vm.qmp("query-migrate").get("fast-load", {})
