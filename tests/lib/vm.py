# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process with a monitor and a serial port, and its machine.

A Qemu is a context manager: leaving it ends the process, whatever happened
inside.  The kernel kills QEMU if this process dies first.
"""

import contextlib
import dataclasses
import json
import os
from pathlib import Path
import pwd
import re
import selectors
import socket
import subprocess
import threading
import time
from typing import Any, Callable, IO, Mapping, NamedTuple, Self, Sequence, cast

import guest
import host
import qmp
from host import PlainError, TOP
from waiting import BUSY, VmError, VmTimeout, Waiting

# Where Debian keeps firmware: a QEMU run from its build tree may not know.
FIRMWARE_DIRS = ("/usr/share/seabios", "/usr/share/qemu",
                 "/usr/lib/ipxe/qemu")
QUIT_MAX_S = 3              # then it is killed
READER_MAX_S = 5            # for what is still in the pipes of a dead process

Argument = str | Path


# ----------------------------------------------------------- which QEMU

def find_qemu(tell: Callable[[str], object] | None = None) -> str:
    """$QEMU, or what the import script built; PlainError when neither is.

    @tell: is called with a line that says which it is, and why.
    """
    path = os.environ.get("QEMU")
    if not path:
        script = TOP / "qemu" / "import"
        if not script.exists():
            raise PlainError("no QEMU: set QEMU=path, or build one with "
                             "qemu/import")
        done = subprocess.run([script, "--print-qemu"], text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        path = done.stdout.strip()
        if not path:
            raise PlainError(done.stderr.strip())
        if tell:
            tell(done.stderr.strip())
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise PlainError(f"no QEMU at '{path}': set QEMU=path, or build one "
                         "with qemu/import")
    return path


def version(qemu: Argument) -> tuple[int, int]:
    """(major, minor) of a QEMU: some features are in newer ones only."""
    done = subprocess.run([qemu, "--version"], text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if not found:
        raise PlainError(f"'{qemu} --version' prints no version: is it QEMU?")
    return int(found[1]), int(found[2])


def kvm_group() -> int:
    """The group that may open /dev/kvm; a user of QEMU is usually in it."""
    try:
        return os.stat("/dev/kvm").st_gid
    except OSError:
        return pwd.getpwnam("nobody").pw_gid


def has_fast_load(qemu: Argument) -> bool:
    """Whether this QEMU knows x-fast-load-threads."""
    with Qemu(qemu, ["-M", "none", "-nodefaults", "-display", "none"]) as vm:
        vm.greet()
        return "x-fast-load-threads" in vm.qmp("query-migrate-parameters")


# ------------------------------------------------------------- the machine

@dataclasses.dataclass(frozen=True)
class Machine:
    """A virtual machine: what saving and restoring QEMU must agree on."""

    guest: guest.Guest
    mem_mib: int = 1024
    fill_mib: int = 700
    cpus: int | str = 2         # a number, or more words of -smp
    zero_pct: int = 10
    seed: int = 1
    think_us: int = 0
    machine: str = "q35"
    accel: str = "tcg"
    mem_more: str = ""          # ",slots=..." and ",maxmem=..." for -m
    more: Sequence[str] = ()    # further options of QEMU

    def but(self, **changes: Any) -> "Machine":
        return dataclasses.replace(self, **changes)

    def args(self) -> list[str]:
        return [
            "-no-user-config", "-nodefaults", "-display", "none",
            "-M", self.machine, "-accel", self.accel,
            "-m", f"{self.mem_mib}M{self.mem_more}", "-smp", str(self.cpus),
            *self.guest.arguments(self), *self.more,
        ]

    def on_backend(self) -> "Machine":
        """Its memory is the backend "pc.ram", which QEMU has to be given."""
        return self.but(machine=f"{self.machine},memory-backend=pc.ram")


def backend(kind: str, mib: int, name: str = "pc.ram") -> list[str]:
    """QEMU's options for a memory backend."""
    return ["-object", f"{kind},id={name},size={mib}M"]


# ---------------------------------------------------------------- one QEMU

class MappedPart(NamedTuple):
    """A part of a process's address space; ends are host addresses."""
    begin_hva: int
    end_hva: int
    text: str                   # what smaps says of it


def waits(task: Path) -> bool:
    """Whether a thread waits for a page; task is its folder in /proc."""
    with contextlib.suppress(OSError):
        return "handle_userfault" in (task / "stack").read_text()
    return False


class VcpuTimes(NamedTuple):
    """CPU times of all vCPUs together, in seconds."""
    at: float                   # the moment at which they were read
    ran: float
    ready: float                # waited for a processor


def _ids_of(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid,
            "extra_groups": [kvm_group()]}


class Qemu(qmp.Monitor, guest.Verifier):
    """The process; its monitor and serial port are socket pairs."""

    def __init__(self, binary: Argument, args: Sequence[Argument], *,
                 user: str | None = None,
                 env: Mapping[str, str] | None = None,
                 preexec: Callable[[], object] | None = None,
                 pass_fds: Sequence[int] = ()) -> None:
        qmp_here, qmp_there = socket.socketpair()
        serial_here, serial_there = socket.socketpair()
        Waiting.__init__(self)
        qmp.Monitor.__init__(self, qmp_here)
        guest.Verifier.__init__(self, serial_here)
        self._stderr = bytearray()
        self.command: list[Argument] = [binary]
        for firmware in FIRMWARE_DIRS:
            if os.path.isdir(firmware):
                self.command += ["-L", firmware]
        self.command += [
            "-chardev", f"socket,id=qmp0,fd={qmp_there.fileno()}",
            "-mon", "chardev=qmp0,mode=control",
            "-chardev", f"socket,id=ser0,fd={serial_there.fileno()}",
            "-serial", "chardev:ser0",
            *args]

        def before_exec() -> None:
            host.die_with_parent()
            if preexec:
                preexec()

        self.started_at = time.monotonic()
        try:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                preexec_fn=before_exec,
                env=dict(os.environ, **env) if env else None,
                pass_fds=(qmp_there.fileno(), serial_there.fileno(),
                          *pass_fds), **_ids_of(user))
        except OSError as e:
            raise VmError(f"{binary}: {e.strerror}") from None
        finally:
            qmp_there.close()
            serial_there.close()
        self._stderr_pipe = cast(IO[bytes], self.process.stderr)
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- reading: one thread for monitor, serial port and stderr

    def _read_all(self) -> None:
        sel = selectors.DefaultSelector()
        sel.register(self._monitor_socket, selectors.EVENT_READ,
                     self.hear_monitor)
        sel.register(self._serial_socket, selectors.EVENT_READ,
                     self.hear_serial)
        sel.register(self._stderr_pipe, selectors.EVENT_READ,
                     self._hear_stderr)
        while sel.get_map():
            for key, _ in sel.select():
                try:
                    data = os.read(key.fd, 65536)
                except OSError:
                    data = b""
                at = time.monotonic()
                with self.changed:
                    if data:
                        key.data(at, data)
                    else:
                        sel.unregister(key.fileobj)
                    self.changed.notify_all()
        sel.close()

    def _hear_stderr(self, at: float, data: bytes) -> None:
        self._stderr += data

    # -- the process

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def monitor_is_open(self) -> bool:
        """Whether QEMU lives, even as a daemon, which is another process."""
        return self._reader.is_alive()

    def why_not(self, what: str) -> str | None:
        if self._reader.is_alive():
            return None
        return (f"QEMU ended (exit code {self.process.wait()}) before "
                f"{what}: {self._stderr.decode().strip()}")

    def stderr(self) -> str:
        with self.changed:
            return self._stderr.decode(errors="replace")

    def wait_exit(self, timeout: float) -> int:
        try:
            code = self.process.wait(timeout * BUSY)
        except subprocess.TimeoutExpired:
            raise VmTimeout(f"QEMU still runs after {timeout * BUSY:g} s") \
                from None
        self._reader.join(READER_MAX_S)
        return code

    # -- what the process holds

    def proc(self, name: str) -> Path:
        """A file of this process in /proc."""
        return Path(f"/proc/{self.pid}") / name

    def status(self, field: str) -> str:
        """The first word that the kernel's status has for a field."""
        found = re.search(rf"(?m)^{field}:\s+(\w+)",
                          self.proc("status").read_text())
        if not found:
            raise PlainError(f"the kernel does not say '{field}'")
        return found[1]

    def mappings(self) -> list[MappedPart]:
        found = []
        text = self.proc("smaps").read_text()
        for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", text)[1:]:
            begin, end = (int(x, 16) for x in part.split()[0].split("-"))
            found.append(MappedPart(begin, end, part))
        return found

    def thread_waits(self) -> str:
        """What each thread is called, and the kernel's function it is in."""
        waits = []
        for task in sorted(self.proc("task").iterdir()):
            with contextlib.suppress(OSError):
                waits.append(f"{(task / 'comm').read_text().strip()} in "
                             f"{(task / 'wchan').read_text()}")
        return ", ".join(waits)

    def main_thread_waits_in(self) -> str:
        """The kernel function in which the main loop sleeps, for root."""
        try:
            return self.proc(f"task/{self.pid}/wchan").read_text()
        except OSError:
            return "?"

    def tasks(self, prefix: str = "") -> dict[Path, str]:
        """The threads with that prefix: folder in /proc -> name."""
        found = {}
        for task in self.proc("task").glob("*"):
            with contextlib.suppress(OSError):      # it may end just now
                name = (task / "comm").read_text().strip()
                if name.startswith(prefix):
                    found[task] = name
        return found

    def threads(self, prefix: str) -> list[str]:
        return list(self.tasks(prefix).values())

    def vcpu_tasks(self) -> list[Path]:
        return [self.proc(f"task/{cpu['thread-id']}")
                for cpu in self.qmp("query-cpus-fast")]

    def open_files(self) -> list[str]:
        """What each descriptor refers to, as the kernel names it."""
        found = []
        for link in self.proc("fd").iterdir():
            with contextlib.suppress(OSError):      # closed just now
                found.append(os.readlink(link))
        return found

    def descriptors(self, path: Path | None = None) -> dict[str, int]:
        """How many userfaultfds, io_urings and descriptors of path are open.

        The last is the entry "snapshot".
        """
        found = {"userfaultfd": 0, "io_uring": 0, "snapshot": 0}
        for target in self.open_files():
            for kind in found:
                if f"[{kind}]" in target:
                    found[kind] += 1
            found["snapshot"] += target == str(path)
        return found

    def cpu_seconds(self, vcpus: bool = True) -> float:
        """CPU time of the process, ended threads included."""
        ticks = cpu_ticks(self.proc(""))
        if not vcpus:
            ticks -= sum(map(cpu_ticks, self.vcpu_tasks()))
        return ticks / os.sysconf("SC_CLK_TCK")

    def vcpu_times(self) -> VcpuTimes:
        at = time.monotonic()
        ran_ns = ready_ns = 0
        for task in self.vcpu_tasks():
            ran, ready, _ = (task / "schedstat").read_text().split()
            ran_ns += int(ran)
            ready_ns += int(ready)
        return VcpuTimes(at, ran_ns / 1e9, ready_ns / 1e9)

    def page_table_mib(self) -> float:
        return host.number_of(self.proc("status").read_text(), "VmPTE") / 1024

    def memory_mib(self, field: str) -> int:
        """A field of smaps_rollup, such as Rss or AnonHugePages."""
        return host.number_of(self.proc("smaps_rollup").read_text(),
                              field) >> 10

    def disk_read_bytes(self) -> int:
        """What the process caused to be read from storage."""
        return host.number_of(self.proc("io").read_text(), "read_bytes")

    # -- the end

    def close(self) -> None:
        """End QEMU: by "quit", then by SIGKILL.  Never raises."""
        if self.process.poll() is None:
            self.send("quit")
            try:
                self.process.wait(QUIT_MAX_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(READER_MAX_S)
        self._monitor_socket.close()
        self._serial_socket.close()
        self._stderr_pipe.close()

    def diagnostics(self) -> list[str]:
        """What a reader of a failed test wants to see, as lines."""
        with self.changed:
            out = ["command: " + " ".join(map(str, self.command)),
                   f"exit code: {self.process.poll()}"]
            out += ["stderr: " + line for line in
                    self._stderr.decode(errors="replace").splitlines()[-20:]]
            out += [f"event {e.at - self.started_at:.3f} s: "
                    f"{e.name} {json.dumps(e.data)}"
                    for e in self.events[-12:]]
            out += ["guest: " + text for text in self.complaints()[:12]]
            out += [f"guest {line.at - self.started_at:.3f} s: {line.text}"
                    for line in self.serial[-4:]]
        return out


def cpu_ticks(task: Path) -> int:
    """CPU time, in ticks, of a process or thread with this folder in /proc."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
