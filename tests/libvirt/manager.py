# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's daemon in a World, virsh, and domains that boot a test guest.

Commands are run as people run them, by virsh.  Each has a bound, and a command
that reaches it raises VirshHangs: no command may hang libvirt.  What libvirt
and QEMU say to each other is in Libvirt.monitor_lines().

Times are seconds of the monotonic clock.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
import re
import socket
import subprocess
import threading
import time
from typing import Any, Iterator, NamedTuple, Self
from xml.sax.saxutils import escape, quoteattr

import guest
import vm
from debianroot import World
from guest import Guest, LinuxGuest, ProbeGuest
from host import PlainError
from waiting import BUSY, VmError, Waiting

ROOT_EMULATOR = "/usr/local/bin/qemu-under-test"
PROBE = ProbeGuest("/usr/local/share/probe-guest")
DAEMON_MAX_S = 30
COMMAND_MAX_S = 20
LIFE_MAX_S = 60
POLL_S = 0.05
QEMU_LINES = 3              # of its log, when a guest does not boot
ACCEPT_S = 0.2              # between two looks at whether virsh still runs

# libvirtd without systemd: no labels, no control groups, no logging daemon.
DAEMON_CONFIG = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
log_filters = "1:qemu_monitor 3:*"
log_outputs = "1:file:/shared/libvirtd.log"
"""
QEMU_CONFIG = """\
security_driver = "none"
cgroup_controllers = []
stdio_handler = "file"
save_image_format = "sparse"
"""
# QEMU runs as root, and sees the same files as libvirt does.
AS_ROOT = QEMU_CONFIG + """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
"""
# Debian's own choice: a user without privileges, a /dev with few devices.
AS_ORDINARY_USER = QEMU_CONFIG
DAEMON = "libvirtd --timeout 0"

# How a domain loads, as -global settings of its QEMU.
Settings = dict[str, str | int]
STOCK: Settings = {}
ATTACHED: Settings = {"x-fast-load-threads": 2}
DETACHED: Settings = {**ATTACHED, "x-fast-load-detach": "on"}


class VirshError(VmError):
    """virsh refused or failed; the text is libvirt's own."""


class VirshHangs(VmError):
    """virsh was not done within its bound."""


class Answer(NamedTuple):
    seconds: float
    text: str


# -------------------------------------------------------------- the console

class Life(guest.Verifier):
    """One QEMU's serial port, from its connection to its end."""

    def __init__(self, connection: socket.socket) -> None:
        Waiting.__init__(self)
        guest.Verifier.__init__(self, connection)
        self._is_open = True
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self) -> None:
        while True:
            try:
                data = self._serial_socket.recv(65536)
            except OSError:
                data = b""
            at = time.monotonic()
            with self.changed:
                if data:
                    self.hear_serial(at, data)
                else:
                    self._is_open = False
                self.changed.notify_all()
            if not data:
                self._serial_socket.close()
                return

    def why_not(self, what: str) -> str | None:
        return None if self._is_open else \
            f"QEMU closed the serial port before {what}"

    def wait_output(self, since: float, timeout: float = LIFE_MAX_S) -> float:
        """Seconds from `since` to the guest's first output of this life."""
        return self.wait_for("the guest's first output",
                             lambda: self.serial_first_at, timeout) - since

    def wait_end(self, timeout: float = LIFE_MAX_S) -> None:
        """Wait until QEMU closes the serial port, as it does when it ends."""
        self._reader.join(timeout * BUSY)
        if self._reader.is_alive():
            raise VmError("QEMU keeps the serial port open")


class Console:
    """The socket to which each QEMU of a domain connects its serial port."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        path.chmod(0o777)       # QEMU may run as another user
        self._socket.listen(4)
        self._path = path

    def next_life(self, virsh: "Running | None" = None) -> Life:
        """Wait for the next QEMU; give up when virsh, which starts it, ends."""
        deadline = time.monotonic() + LIFE_MAX_S * BUSY
        self._socket.settimeout(ACCEPT_S)
        while True:
            is_last = virsh is not None and virsh.process.poll() is not None \
                or time.monotonic() > deadline
            with contextlib.suppress(TimeoutError):
                connection, _ = self._socket.accept()
                connection.settimeout(None)
                return Life(connection)
            if is_last:
                raise VmError("QEMU does not connect its serial port")

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


# --------------------------------------------------------------- the domain

@dataclasses.dataclass(frozen=True)
class DomainKind:
    """What a domain's XML is made of.  One domain may have several kinds."""

    name: str
    machine: str                # versioned, or saved images would not fit
    mem_mib: int = 256
    fill_mib: int = 96
    cpus: int = 2
    has_rng: bool = True        # a device whose data QEMU's main thread writes
    settings: Settings = dataclasses.field(default_factory=dict)
    guest: Guest = PROBE        # its files are where libvirt sees them
    served: str = ""            # a folder, by virtiofsd, for Linux

    def but(self, **changes: Any) -> "DomainKind":
        return dataclasses.replace(self, **changes)

    def as_machine(self) -> vm.Machine:
        return vm.Machine(self.guest, mem_mib=self.mem_mib,
                          fill_mib=self.fill_mib, cpus=self.cpus)

    def _initrd_xml(self) -> str:
        return (f"<initrd>{escape(self.guest.initrd)}</initrd>"
                if isinstance(self.guest, LinuxGuest) else "")

    def _memory_xml(self) -> str:
        """As virtiofsd, another process, needs it."""
        return ("<memoryBacking><source type='memfd'/><access mode='shared'/>"
                "</memoryBacking>" if self.served else "")

    def served_xml(self) -> str:
        """The device of the folder, for virsh attach-device too."""
        return f"""\
<filesystem type='mount' accessmode='passthrough'>
      <driver type='virtiofs'/>
      <source dir={quoteattr(self.served)}/>
      <target dir='fastload'/>
    </filesystem>""" if self.served else ""

    def xml(self) -> str:
        globals_ = "".join(
            "<qemu:arg value='-global'/>"
            f"<qemu:arg value={quoteattr(f'migration.{name}={value}')}/>"
            for name, value in self.settings.items())
        rng = ("<rng model='virtio'>"
               "<backend model='random'>/dev/urandom</backend></rng>"
               if self.has_rng else "")
        return f"""\
<domain type='qemu'
        xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(self.name)}</name>
  <uuid>{self.uuid()}</uuid>
  <memory unit='MiB'>{self.mem_mib}</memory>
  {self._memory_xml()}
  <vcpu>{self.cpus}</vcpu>
  <os>
    <type arch='x86_64' machine={quoteattr(self.machine)}>hvm</type>
    <kernel>{escape(self.guest.kernel)}</kernel>
    {self._initrd_xml()}
    <cmdline>{escape(self.guest.command_line(self.as_machine()))}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model>qemu64</model></cpu>
  <devices>
    <emulator>{ROOT_EMULATOR}</emulator>
    <serial type='unix'>
      <source mode='connect' path='/shared/{escape(self.name)}.serial'/>
    </serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {rng}
    {self.served_xml()}
  </devices>
  <qemu:commandline>{globals_}</qemu:commandline>
</domain>
"""

    def uuid(self) -> str:
        """The same for all kinds, or libvirt refuses the image of another."""
        word = "".join(f"{byte:02x}" for byte in self.name.encode())
        digits = (word + "0" * 32)[:32]
        return "-".join(digits[a:b] for a, b in
                        ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


class Domain:
    """A domain, defined in libvirt; destroyed and undefined at the end."""

    def __init__(self, libvirt: "Libvirt", kind: DomainKind) -> None:
        self.libvirt = libvirt
        self.kind = kind
        self.name = kind.name
        self.console = Console(libvirt.shared / f"{kind.name}.serial")
        self.life: Life | None = None
        try:
            self.define(kind)
        except BaseException:
            self.console.close()
            raise

    def define(self, kind: DomainKind) -> None:
        self.kind = kind
        self.virsh("define", self.xml_file(kind), without_name=True)

    def xml_file(self, kind: DomainKind) -> str:
        """Write the XML of a kind of this domain; its path for virsh."""
        path = self.libvirt.shared / f"{kind.name}.xml"
        path.write_text(kind.xml())
        return self.libvirt.inside(path)

    def virsh(self, command: str, *words: str, without_name: bool = False,
              timeout: float = COMMAND_MAX_S) -> Answer:
        name = [] if without_name else [self.name]
        return self.libvirt.virsh(command, *name, *words, timeout=timeout)

    def start(self, *words: str) -> Answer:
        """virsh start; then self.life is the guest's serial port."""
        answer = self.virsh("start", *words, timeout=LIFE_MAX_S)
        self.life = self.console.next_life()
        return answer

    def boot(self) -> Life:
        """Start the guest, and wait until it has filled its memory."""
        self.start()
        try:
            self.guest.wait_ready(LIFE_MAX_S)
        except VmError as e:
            said = self.qemu_said().splitlines()[-QEMU_LINES:]
            raise VmError(f"{e}: {' | '.join(said)}") from None
        self.guest.verified_more(100)
        return self.guest

    def restore(self, path: Path, *words: str,
                kind: DomainKind | None = None) -> "Loading":
        """Begin "virsh restore" of an image in the shared folder.

        kind: restore with the XML of this kind, instead of the saved XML.
        """
        more = [] if kind is None else ["--xml", self.xml_file(kind)]
        return Loading(self, "restore", self.libvirt.inside(path), *words,
                       *more)

    def start_saved(self, *words: str) -> "Loading":
        """Begin "virsh start" of a domain that has a managed save image."""
        return Loading(self, "start", self.name, *words)

    @property
    def guest(self) -> Life:
        if self.life is None:
            raise PlainError(f"{self.name} has not been started")
        return self.life

    def state(self) -> str:
        return self.virsh("domstate").text.strip()

    def qmp(self, command: str, timeout: float = COMMAND_MAX_S,
            **arguments: Any) -> Any:
        """A command of QEMU's monitor, through libvirt."""
        words = json.dumps({"execute": command, "arguments": {
            name.replace("_", "-"): value
            for name, value in arguments.items()}})
        reply = json.loads(self.virsh("qemu-monitor-command", words,
                                      timeout=timeout).text)
        if "error" in reply:
            raise VmError(reply["error"]["desc"])
        return reply["return"]

    def fast_load(self) -> dict[str, Any]:
        return dict(self.qmp("query-migrate").get("fast-load", {}))

    def missing_bytes(self) -> int:
        return int(self.fast_load().get("remaining-bytes", 0))

    def qemu_said(self) -> str:
        """What its QEMUs have written so far, and their command lines."""
        return subprocess.run(self.libvirt.world.enter(
            "cat", f"/var/log/libvirt/qemu/{self.name}.log"), check=True,
            text=True, stdout=subprocess.PIPE).stdout

    def lift_limit(self) -> None:
        self.qmp("migrate-set-parameters", max_postcopy_bandwidth=0)

    def wait_loaded(self, timeout: float = LIFE_MAX_S) -> dict[str, Any]:
        """Wait until the load has ended, if there was one; its figures."""
        return self.wait_load_state("completed", timeout=timeout)

    def wait_load_state(self, *states: str,
                        timeout: float = LIFE_MAX_S) -> dict[str, Any]:
        """Wait until the load's state is one of these; its figures."""
        deadline = time.monotonic() + timeout * BUSY
        while True:
            fast = self.fast_load()
            if not fast or fast["state"] in states:
                return fast
            if time.monotonic() > deadline:
                raise VmError(f"the load is not {' or '.join(states)} after "
                              f"{timeout * BUSY:g} s: {json.dumps(fast)}")
            time.sleep(POLL_S)

    def wait_without(self, element: str,
                     timeout: float = LIFE_MAX_S) -> None:
        """Until its XML has no such device any more."""
        deadline = time.monotonic() + timeout * BUSY
        while f"<{element}" in self.virsh("dumpxml").text:
            if time.monotonic() > deadline:
                raise VmError(f"{self.name} has its {element} still after "
                              f"{timeout * BUSY:g} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Remove the domain and its managed save image, in any state."""
        for words in (["destroy"], ["managedsave-remove"], ["undefine"]):
            with contextlib.suppress(VmError):
                self.virsh(*words)
        self.console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Loading:
    """A virsh command that loads a guest, running beside the test.

    since: when it was begun.
    """

    def __init__(self, domain: Domain, *words: str) -> None:
        self._domain = domain
        self.since = time.monotonic()
        self._virsh = domain.libvirt.begin(*words)
        # QEMU connects as soon as it is started, long before it loads.
        self.life = domain.life = self._accepted()

    def _accepted(self) -> Life:
        try:
            return self._domain.console.next_life(self._virsh)
        except VmError:
            self.wait()         # raises with virsh's own text, if it failed
            raise

    def wait(self, timeout: float = LIFE_MAX_S) -> float:
        """Wait until virsh has ended; the seconds since it was begun."""
        return self._domain.libvirt.finish(self._virsh, timeout).seconds

    def output_s(self) -> float:
        """Wait for the guest's first output; the seconds since the begin."""
        return self.life.wait_output(self.since)


# --------------------------------------------------------------- the daemon

class Running(NamedTuple):
    """A virsh command that has been started."""
    words: tuple[str, ...]
    since: float
    process: subprocess.Popen[str]


class Libvirt:
    """libvirtd in a World of its own, ready for virsh.

    emulator: a QEMU on the host; None if the root has a ROOT_EMULATOR.
    """

    def __init__(self, root: str | Path, folder: Path, emulator: str | None,
                 kernel: str, qemu_config: str = AS_ROOT) -> None:
        for name, text in (("libvirtd.conf", DAEMON_CONFIG),
                           ("qemu.conf", qemu_config)):
            (folder / name).write_text(text)
        with contextlib.ExitStack() as stack:
            self.world = stack.enter_context(World(root, folder, (
                (folder / "libvirtd.conf", "/etc/libvirt/libvirtd.conf"),
                (folder / "qemu.conf", "/etc/libvirt/qemu.conf"),
                *([(emulator, ROOT_EMULATOR)] if emulator else []),
                (kernel, PROBE.kernel)), DAEMON))
            self.shared = self.world.shared
            self._wait_answers()
            self._check_libraries()
            self._stack = stack.pop_all()

    def _wait_answers(self) -> None:
        until = time.monotonic() + DAEMON_MAX_S * BUSY
        while True:
            try:
                self.virsh("list")
                return
            except VmError as e:
                if time.monotonic() > until or not self.world.alive():
                    said = self.world.log.read_text().strip()
                    raise PlainError(f"libvirtd does not answer: {e} {said}") \
                        from None
            time.sleep(0.1)

    def _check_libraries(self) -> None:
        """Tell which libraries QEMU lacks; libvirt's own error does not."""
        done = subprocess.run(self.world.enter("ldd", ROOT_EMULATOR),
                              check=False, text=True, stdout=subprocess.PIPE)
        missing = re.findall(r"(\S+) => not found", done.stdout)
        if missing:
            raise PlainError("the root of the tests lacks libraries of this "
                             f"QEMU: {', '.join(missing)}; their packages "
                             "belong in tests/libvirt/root-packages")

    def inside(self, path: Path) -> str:
        """A path in the shared folder, as libvirt and QEMU see it."""
        return f"/shared/{path.relative_to(self.shared)}"

    # -- virsh

    def begin(self, *words: str) -> Running:
        since = time.monotonic()
        process = subprocess.Popen(
            self.world.enter("virsh", "-q", "-c", "qemu:///system", *words),
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        return Running(words, since, process)

    def finish(self, running: Running, timeout: float) -> Answer:
        what = "virsh " + " ".join(running.words)
        try:
            out, err = running.process.communicate(timeout=timeout * BUSY)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.communicate()
            raise VirshHangs(f"'{what}' is not done after "
                             f"{timeout * BUSY:g} s") from None
        seconds = time.monotonic() - running.since
        if running.process.returncode:
            raise VirshError(" ".join(err.split()) or f"'{what}' failed")
        return Answer(seconds, out)

    def virsh(self, *words: str, timeout: float = COMMAND_MAX_S) -> Answer:
        return self.finish(self.begin(*words), timeout)

    def version(self) -> str:
        text = self.virsh("version").text
        found = re.search(r"Using library: libvirt (\S+)", text)
        return found[1] if found else "?"

    # -- what it said to QEMU

    @property
    def log(self) -> Path:
        return self.shared / "libvirtd.log"

    def log_bytes(self) -> int:
        return self.log.stat().st_size

    def monitor_lines(self, since_bytes: int) -> Iterator[tuple[str, str]]:
        """(">", "<" or "!", JSON): sent, answered, an event; in order."""
        marks = {"QEMU_MONITOR_IO_WRITE": ">", "QEMU_MONITOR_RECV_REPLY": "<",
                 "QEMU_MONITOR_RECV_EVENT": "!"}
        with open(self.log, errors="replace") as f:
            f.seek(since_bytes)
            for line in f:
                found = re.search(r"(QEMU_MONITOR_\w+): .*?(?:buf|reply|event)"
                                  r"=(\{.*)", line)
                if found and found[1] in marks:
                    yield marks[found[1]], found[2].rstrip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
