# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot a guest, save it to a mapped-ram snapshot, restore it.

Nothing here decides whether a test passes: the caller compares times,
statistics and sweeps.  Times are seconds of the monotonic clock, taken when a
line arrives.
"""

import json
import os
from pathlib import Path
import time
from typing import Any, Callable, Mapping, Self, Sequence

import qmp
from guest import Guest, UNIFORM
from qmp import QmpError, REPLY_TIMEOUT_S, with_dashes
from vm import Argument, Machine, Qemu
from waiting import BUSY, VmError, VmTimeout

BOOT_MAX_S = 240
ORDER_MAX_S = 60            # until the guest answers an order
SAVE_MAX_S = 240
LOAD_MAX_S = 240
RUN_MAX_S = 120
KVM_TRIAL_S = 10
VERIFIED_AFTER_BOOT = 100   # pages; a guest that checks them is at work
DOWNTIME_LIMIT_MS = 2000 * 1000
POLL_S = 0.05

Plug = Callable[[Qemu], object]
Progress = Callable[[float, dict[str, Any], Qemu], object]


def kvm_works(qemu: Argument, guest: Guest) -> bool:
    """Whether this guest says a word under KVM in a bounded time."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    machine = Machine(guest, mem_mib=256, fill_mib=16, accel="kvm")
    with Qemu(qemu, machine.args()) as vm:
        try:
            vm.wait_ready(KVM_TRIAL_S)
            return True
        except VmError:
            return False


# ---------------------------------------------------------------- to a file

def boot(qemu: Argument, machine: Machine, plug: Plug | None = None) -> Qemu:
    """A running guest whose memory is filled, after plug(vm)."""
    vm = Qemu(qemu, machine.args())
    try:
        vm.greet()
        if plug:
            plug(vm)
        vm.wait_ready(BOOT_MAX_S)
        vm.verified_more(VERIFIED_AFTER_BOOT)
    except BaseException:
        vm.close()
        raise
    return vm


def save(vm: Qemu, path: Path, *, paused: bool = False, uri: str | None = None,
         capabilities: Mapping[str, bool] | None = None,
         parameters: Mapping[str, Any] | None = None) -> None:
    """Write a mapped-ram snapshot to path.

    paused: the guest is stopped before, and is restored paused.  Otherwise it
    runs until all its memory is written once, and is restored running.
    uri: what "migrate" is given, if not file:PATH.
    """
    if paused:
        vm.qmp("stop")
    vm.set_capabilities(mapped_ram=True, events=True, **(capabilities or {}))
    # Otherwise saving a guest that keeps writing memory would never end.
    vm.qmp("migrate-set-parameters", downtime_limit=DOWNTIME_LIMIT_MS,
           max_bandwidth=0, **(parameters or {}))
    start = vm.event_count()
    vm.qmp("migrate", uri=uri or f"file:{path}")
    vm.wait_event("MIGRATION", SAVE_MAX_S,
                  qmp.status_is("completed", "failed"), start)
    info = vm.qmp("query-migrate")
    if info["status"] != "completed":
        raise VmError(f"saving to {path}: {info.get('error-desc', info)}")
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def boot_and_save(qemu: Argument, machine: Machine, path: Path, *,
                  run_s: float = 1.0, plug: Plug | None = None,
                  order: bytes = UNIFORM, **how: Any) -> dict[str, int]:
    """Boot, fill, let it run, save, quit; the figures of the READY line.

    plug is an argument of boot(), order is UNIFORM or WORKING_SET; all others
    are arguments of save().
    """
    with boot(qemu, machine, plug) as vm:
        time.sleep(run_s)
        ready = vm.wait_ready(1)
        vm.say(order)
        vm.wait_line(f"^FASTLOAD ORDER {order.decode()}", ORDER_MAX_S)
        save(vm, path, **how)
        if vm.wrong_max:
            raise VmError(f"{vm.wrong_max} wrong pages before the snapshot")
    return ready


# -------------------------------------------------------------- from a file

class Restore:
    """A guest being restored.  Times are seconds since `t0`.

    threads: 0 for QEMU's own loader, else x-fast-load-threads.
    how: "defer" (t0 is when migrate-incoming is sent) or "cmdline" (t0 is
    when the process is started).
    before_incoming: is called with the Qemu right before migrate-incoming.
    """

    def __init__(self, qemu: Argument, machine: Machine, snapshot: Path, *,
                 threads: int = 0, how: str = "defer",
                 args: Sequence[Argument] = (),
                 capabilities: Mapping[str, bool] | None = None,
                 parameters: Mapping[str, Any] | None = None,
                 uri: str | None = None, exit_on_error: bool | None = None,
                 mapped_ram: bool = True,
                 before_incoming: Plug | None = None,
                 **qemu_options: Any) -> None:
        self.threads = threads
        self.how = how
        self.info: dict[str, Any] = {}
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self.uri = uri or f"file:{snapshot}"
        self.snapshot = snapshot
        self.descriptors_before: dict[str, int] = {}
        self._seen_running: float | None = None
        self._seen_completed: float | None = None
        self._incoming: int | None = None
        states = {**(capabilities or {}), "events": True,
                  "mapped-ram": mapped_ram}
        values = dict(parameters or {})
        if threads:
            values["x-fast-load-threads"] = threads

        all_args = [*machine.args(), *args]
        if how == "cmdline":
            all_args += self._as_options(states, values)
        else:
            all_args += ["-incoming", "defer"]
        self.vm = Qemu(qemu, all_args, **qemu_options)
        self.t0 = self.vm.started_at
        try:
            if how == "cmdline":
                self.vm.greet(REPLY_TIMEOUT_S)
                return
            self.vm.greet()
            self.vm.set_capabilities(**states)
            if values:
                self.vm.qmp("migrate-set-parameters", **values)
            self.descriptors_before = self.vm.descriptors(snapshot)
            if before_incoming:
                before_incoming(self.vm)
            more: dict[str, Any] = {} if exit_on_error is None else \
                {"exit_on_error": exit_on_error}
            self.t0 = time.monotonic()
            self._incoming = self.vm.send("migrate-incoming", uri=self.uri,
                                          **more)
        except BaseException:
            self.vm.close()
            raise

    def _as_options(self, capabilities: Mapping[str, bool],
                    parameters: Mapping[str, Any]) -> list[str]:
        """What the monitor would set, as arguments of QEMU."""
        args = []
        for name, state in with_dashes(capabilities).items():
            # Most capabilities have a property x-NAME, mapped-ram has not.
            prefix = "" if name == "mapped-ram" else "x-"
            args += ["-global", f"migration.{prefix}{name}="
                     f"{'on' if state else 'off'}"]
        for name, value in with_dashes(parameters).items():
            args += ["-global", f"migration.{name}={value}"]
        return [*args, "-incoming", self.uri]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.vm.close()

    def accepted(self, timeout: float = REPLY_TIMEOUT_S) -> None:
        """Wait for the reply to migrate-incoming; QmpError if refused."""
        if self._incoming is not None:
            ident, self._incoming = self._incoming, None
            self.vm.reply(ident, "migrate-incoming", timeout)

    # -- when what happened

    def run_s(self) -> float | None:
        for event in list(self.vm.events):
            if event.name == "RESUME":
                return event.at - self.t0
        return self._seen_running

    def output_s(self) -> float | None:
        at = self.vm.serial_first_at
        return None if at is None else at - self.t0

    def statuses(self) -> list[tuple[float, str]]:
        """[(seconds, status)] from the MIGRATION events."""
        return [(event.at - self.t0, event.data["status"])
                for event in list(self.vm.events)
                if event.name == "MIGRATION"]

    def last_status(self) -> str:
        return self.statuses()[-1][1]

    def completed_s(self) -> float | None:
        for at, status in self.statuses():
            if status == "completed":
                return at
        return self._seen_completed

    # -- waiting

    def wait_status(self, *statuses: str, timeout: float = 60,
                    start: int = 0) -> qmp.Event:
        """Until a MIGRATION event tells one of these statuses."""
        return self.vm.wait_event("MIGRATION", timeout,
                                  qmp.status_is(*statuses), start)

    def wait_can_run(self) -> None:
        """Until the guest may run, though most of its pages are missing."""
        self.wait_status("postcopy-active")

    def wait_running(self, timeout: float = RUN_MAX_S) -> float:
        """Wait until the guest runs; the seconds it took.

        Started by command line, the guest may run before there is a monitor
        to say so: then this is when it was first seen running.
        """
        self.accepted(timeout)
        if self.how == "cmdline":
            deadline = time.monotonic() + timeout * BUSY
            while self.vm.run_state(timeout) != "running":
                if time.monotonic() > deadline:
                    raise VmTimeout(f"the guest does not run after "
                                    f"{timeout * BUSY:g} s")
                time.sleep(0.005)
            self._seen_running = time.monotonic() - self.t0
        else:
            self.vm.wait_event("RESUME", timeout)
        run_s = self.run_s()
        assert run_s is not None
        return run_s

    def wait_output(self, timeout: float = RUN_MAX_S) -> float:
        """Wait until the guest says something; the seconds it took."""
        return self.vm.wait_for("the guest's first output",
                                lambda: self.vm.serial_first_at,
                                timeout) - self.t0

    def wait_completed(self, timeout: float = LOAD_MAX_S,
                       on_progress: Progress | None = None,
                       poll_s: float = POLL_S) -> float:
        """Poll query-migrate until the load ended well; the seconds it took.

        VmError with QEMU's own text when it failed.
        """
        self.accepted(timeout)
        deadline = time.monotonic() + timeout * BUSY
        while True:
            self.info = self.vm.qmp("query-migrate", timeout)
            now = time.monotonic() - self.t0
            self.samples.append((now, self.info))
            status = self.info.get("status")
            if on_progress:
                on_progress(now, self.info, self.vm)
            if status == "completed":
                return self._note_completed(now)
            if status == "failed":
                raise VmError("the load failed: " +
                              self.info.get("error-desc", "no reason given"))
            if time.monotonic() > deadline:
                raise VmTimeout(f"the load is still '{status}' after "
                                f"{timeout * BUSY:g} s: "
                                f"{json.dumps(self.info)}")
            time.sleep(poll_s)

    def _note_completed(self, now: float) -> float:
        if self.how == "cmdline":
            self._seen_completed = now
        else:
            self.wait_status("completed", timeout=10)
        completed_s = self.completed_s()
        assert completed_s is not None
        return completed_s

    def wait_failed(self, timeout: float = 60) -> tuple[str, int | None]:
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
        deadline = time.monotonic() + timeout * BUSY
        info: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                info = self.vm.qmp("query-migrate", timeout)
            except VmTimeout:
                raise
            except VmError:
                return self.vm.stderr().strip(), self.vm.wait_exit(timeout)
            if info.get("status") == "failed":
                return str(info.get("error-desc", "")), None
            if info.get("status") == "completed":
                raise VmError("the load completed, though it had to fail")
            time.sleep(POLL_S)
        raise VmTimeout(f"the load neither failed nor completed in "
                        f"{timeout * BUSY:g} s: {json.dumps(info)}")

    # -- the load

    def lift_limit(self) -> None:
        """Remove the limit on reading ahead."""
        self.vm.qmp("migrate-set-parameters", max_postcopy_bandwidth=0)

    def lift_limit_unheard(self) -> None:
        """Remove it, without waiting for a main loop that waits for a page."""
        self.vm.send("migrate-set-parameters", max_postcopy_bandwidth=0)

    def fast_load(self) -> dict[str, Any]:
        """The statistics that fast load adds to query-migrate."""
        return dict(self.vm.qmp("query-migrate").get("fast-load", {}))

    def facts(self) -> dict[str, Any]:
        """The same, out of band: even while the main loop waits for a page."""
        return dict(self.vm.qmp_oob("x-query-fast-load", 5))
