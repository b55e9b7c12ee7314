# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor: commands, their replies, and events, as JSON lines.

Names of arguments are Python's: send("x", exit_on_error=True) sends
"exit-on-error".  A command that is refused raises QmpError with QEMU's text.
"""

import json
import socket
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from waiting import Lines, VmError, Waiting

REPLY_TIMEOUT_S = 120
GREETING_TIMEOUT_S = 30


class QmpError(VmError):
    """The monitor refused a command; the text is QEMU's own."""


class Event(NamedTuple):
    at: float                   # when it arrived
    name: str
    data: dict[str, Any]


Accept = Callable[[dict[str, Any]], object]


def any_data(data: dict[str, Any]) -> bool:
    """For wait_event(): whatever the event says."""
    return True


def status_is(*statuses: str) -> Accept:
    """For wait_event(): a MIGRATION event with one of these statuses."""
    return lambda data: data.get("status") in statuses


def with_dashes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Names as QEMU writes them."""
    return {name.replace("_", "-"): value for name, value in arguments.items()}


class Monitor(Waiting):
    """A monitor; vm.Qemu's reader thread hands its bytes to hear_monitor()."""

    def __init__(self, monitor_socket: socket.socket) -> None:
        self.events: list[Event] = []
        self._monitor_socket = monitor_socket
        self._monitor_lines = Lines()
        self._replies: dict[int | None, dict[str, Any]] = {}
        self._next_id = 0
        self._greeting: dict[str, Any] | None = None

    def hear_monitor(self, at: float, data: bytes) -> None:
        """Take bytes that came; called with the lock held."""
        for raw in self._monitor_lines.add(data):
            try:
                message = json.loads(raw)
            except ValueError:
                continue
            if "event" in message:
                self.events.append(Event(at, message["event"],
                                         message.get("data", {})))
            elif "QMP" in message:
                self._greeting = message
            else:
                self._replies[message.get("id")] = message

    # -- commands

    def send(self, command: str, *, oob: bool = False,
             fds: Sequence[int] = (), **arguments: Any) -> int:
        """Send a command without waiting; the id of its reply.

        oob: out of band, which works while the main loop waits for a page.
        fds: descriptors that QEMU is given with it.
        """
        with self.changed:
            self._next_id += 1
            ident = self._next_id
        message = {"exec-oob" if oob else "execute": command, "id": ident}
        if arguments:
            message["arguments"] = with_dashes(arguments)
        try:
            socket.send_fds(self._monitor_socket,
                            [json.dumps(message).encode() + b"\n"], fds)
        except OSError:
            pass                    # the wait for the reply tells the reason
        return ident

    def reply(self, ident: int, what: str,
              timeout: float = REPLY_TIMEOUT_S) -> Any:
        message = self.wait_for(f"the reply to {what}",
                                lambda: self._replies.pop(ident, None),
                                timeout)
        if "error" in message:
            raise QmpError(message["error"]["desc"])
        return message["return"]

    def qmp(self, command: str, timeout: float = REPLY_TIMEOUT_S,
            **arguments: Any) -> Any:
        return self.reply(self.send(command, **arguments), command, timeout)

    def qmp_oob(self, command: str, timeout: float = REPLY_TIMEOUT_S,
                **arguments: Any) -> Any:
        """Out of band: answered even while the main loop waits for a page."""
        return self.reply(self.send(command, oob=True, **arguments), command,
                          timeout)

    def hmp(self, line: str, timeout: float = REPLY_TIMEOUT_S) -> str:
        """What the human monitor says to a line."""
        return str(self.qmp("human-monitor-command", timeout,
                            command_line=line))

    def run_state(self, timeout: float = REPLY_TIMEOUT_S) -> str:
        """Such as "running" or "paused"."""
        return str(self.qmp("query-status", timeout)["status"])

    def greet(self, timeout: float = GREETING_TIMEOUT_S) -> None:
        greeting = self.wait_for("the monitor's greeting",
                                 lambda: self._greeting, timeout)
        offered = greeting["QMP"].get("capabilities", [])
        self.qmp("qmp_capabilities", timeout,
                 enable=[c for c in offered if c == "oob"])

    def set_capabilities(self, **states: bool) -> None:
        self.qmp("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": state}
            for name, state in with_dashes(states).items()])

    # -- events

    def event_count(self) -> int:
        """How many events have come: the start of a wait for a later one."""
        with self.changed:
            return len(self.events)

    def wait_event(self, name: str, timeout: float,
                   accept: Accept = any_data, start: int = 0) -> Event:
        """The first event after index `start` whose data are accepted."""
        def probe() -> Event | None:
            for event in self.events[start:]:
                if event.name == name and accept(event.data):
                    return event
            return None
        return self.wait_for(f"the event {name}", probe, timeout)
