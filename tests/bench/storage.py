# SPDX-License-Identifier: GPL-2.0-or-later
"""Simulated storage: what it gives, when, and what is left of it."""

import contextlib
import os
from pathlib import Path
import shutil
import signal
import subprocess

from bench.gate import Gate
from bench.places import WITHOUT, copy_for_nobody, is_root, needs_simulation
from bench.results import all_counted, contenders, scenarios
from bench.stage import (
    MADE, MIB, TINY, Bench, Child, has_guest, load_result, one_sentence,
    wait_until)
from tap import Failed, Skip, case, check

SLOW = "rtt=5ms,rate=20M"
SLOW_RTT_NS = 5_000_000
SLOW_RATE = 20 * MIB


def simulated(bench: Bench, pid: int) -> str | None:
    """The backing device of the storage that a process has open."""
    ours = os.stat(bench.temporary).st_dev
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                device = link.stat().st_dev
                name = f"{os.major(device)}:{os.minor(device)}"
                if device != ours and os.major(device) == 0 and \
                        Path("/sys/class/bdi", name).exists():
                    return name
    return None


def mounted_devices() -> set[str]:
    """The devices of the mounts that this process sees: "major:minor"."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[2] for line in lines}


def seen_mount(bench: Bench, child: Child) -> str:
    """The backing device of @child's storage, which nobody else sees."""
    device = simulated(bench, child.pid)
    check(device not in mounted_devices(), "others see the mount")
    if not device:
        raise Failed("it has no simulated storage")
    return device


def unmounted(device: str) -> None:
    wait_until("end of the mount",
               lambda: not Path("/sys/class/bdi", device).exists())


@case("contenders load the right memory from storage of each class")
def classes_load_right_memory(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, "--size", "4M", "--storage",
                            "nvme,ssd,network", "--cache", "cold")
    check([s["knobs"]["storage"] for s in scenarios(result)] ==
          ["nvme", "ssd", "network"], "other scenarios")
    all_counted(result, 1)
    result = bench.measured(*TINY, "--size", "2M", "--storage", "object",
                            "--cache", "cold", "--contenders",
                            "eager,mmap,fastload")
    all_counted(result, 1)


@case("simulated storage answers no sooner than it should")
def storage_takes_its_time(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, "--size", "4M", "--storage", SLOW,
                            "--cache", "cold", "--contenders",
                            "eager,fastload")
    all_counted(result, 1)
    check(scenarios(result)[0]["knobs"]["storage"] == SLOW, "another name")
    data = result["works"][0]["snapshot"]["data_bytes"]
    for c in contenders(result):
        load, idle = c["measures"]["load_ns"], c["faults_idle"]
        if c["name"] != "null":
            check(load["min"] >= data / SLOW_RATE * 1e9,
                  f"{c['label']} was loaded in {load} ns")
        if c["name"] == "fastload":
            check(idle["max_ns"] >= SLOW_RTT_NS,
                  f"{c['label']} had faults of {idle['max_ns']} ns at most")


@case("the first reads of every run are as fast as was asked for")
def first_reads_are_lucky(bench: Bench) -> None:
    needs_simulation(bench)
    # A run reads three times; any other read would take 10 s.
    result = bench.measured(*TINY, "--size", "4M", "--storage",
                            "rtt=10s,first=5", "--cache", "warm", "--direct",
                            "on", "--contenders", "eager-multi", "--repeat",
                            "3")
    all_counted(result, 3)
    load = contenders(result)[1]["measures"]["load_ns"]
    check(load["max"] < 10e9, f"loaded in {load} ns")


@case("what the device gives is measured through simulated storage")
def device_is_simulated(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, *MADE, "--window", "100ms", "--storage",
                            SLOW, "--cache", "cold", "--contenders", "null")
    check(result["works"][0]["storage"]["sequential_bytes_per_s"] is None,
          "what was simulated counts as the device's")
    storage = scenarios(result)[0]["storage"]
    rate = storage["sequential_bytes_per_s"]["max"]
    check(rate <= SLOW_RATE, f"it reads {rate} bytes a second")
    p50_ns = storage["random_4k"]["p50_ns"]     # within 6 %
    check(p50_ns >= SLOW_RTT_NS * 0.94, f"it reads 4 KiB in {p50_ns} ns")


@case("what the mount for a readahead gives is not the device's either")
def device_is_not_the_mount(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, *MADE, "--window", "100ms", "--cache",
                            "cold", "--contenders", "null", "--readahead",
                            "as-is,64K")
    own = [s.get("storage", {}).get("sequential_bytes_per_s")
           for s in scenarios(result)]
    check(not own[0] and own[1], f"the scenarios have {own}")
    rounds = result["works"][0]["storage"]["sequential_bytes_per_s"]["rounds"]
    check(len(rounds) == 1, f"the device has {rounds}")


@case("simulated storage is cold when dropped and stays warm when filled")
def storage_is_cold_and_warm(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, *MADE, "--storage", "rtt=1ms")
    all_counted(result, 1)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for s in scenarios(result):
        is_cold = s["knobs"]["cache"] == "cold"
        for c in s["contenders"]:
            cached = c["measures"]["cached_bytes"]
            read = c["measures"]["read_bytes"]
            if is_cold:
                check(cached["max"] == 0, f"{c['label']} cold: {cached}")
            else:
                check(cached["min"] >= data, f"{c['label']} warm: {cached}")
            if c["name"] in ("null", "mmap"):   # reads around, holes as well
                continue
            if is_cold or c["knobs"].get("direct"):
                check(read["min"] >= data, f"{c['label']} read {read}")
            else:
                # fastload reads a page to learn whether O_DIRECT works there.
                tried = 4096 if c["name"] == "fastload" else 0
                check(read["max"] <= tried, f"{c['label']} read {read}, warm")


@case("clones read from simulated storage, all together what it gave")
def clones_share_storage(bench: Bench) -> None:
    needs_simulation(bench)
    result = bench.measured(*TINY, *MADE, "--storage", "rtt=1ms", "--cache",
                            "cold", "--clones", "3", "--contenders", "eager")
    all_counted(result, 1)
    data = result["works"][0]["snapshot"]["data_bytes"]
    clones = contenders(result)[1]["clones"]
    check(clones["read_bytes"] == clones["device_read_bytes"],
          f"{clones['read_bytes']} of {clones['device_read_bytes']} bytes")
    check(data <= clones["read_bytes"] < 3 * data,
          f"{clones['read_bytes']} bytes are not those of {data} read once")


@case("the readahead that was asked for is the one that the file has")
def readahead_is_set(bench: Bench) -> None:
    needs_simulation(bench)
    for text, kib in (("64K", 64), ("2M", 2048)):
        if kib > 128 and not is_root():
            raise Skip("more than 128 KiB needs root")
        for storage in ("file", "rtt=1ms"):
            gate = Gate(bench)
            child = bench.start(*TINY, *MADE, "--cache", "warm", "--storage",
                                storage, "--readahead", text, "--contenders",
                                "eager", *gate.options)
            gate.wait_for_run(child)
            found = Path("/sys/class/bdi", seen_mount(bench, child),
                         "read_ahead_kb")
            found_kib = int(found.read_text())
            child.kill()
            bench.finish(child)
            check(found_kib == kib, f"{storage}: {found_kib} KiB, not {kib}")
    result = bench.measured(*TINY, *MADE, "--readahead", "as-is,64K",
                            "--contenders", "eager,mmap,fastload")
    all_counted(result, 1)
    check([s["knobs"]["readahead"] for s in scenarios(result)] ==
          ["as is"] * 2 + ["64 KiB"] * 2, "other scenarios")


@case("simulated storage is gone after the end, Ctrl-C and SIGKILL")
def nothing_left_mounted(bench: Bench) -> None:
    needs_simulation(bench)
    for number in (signal.SIGINT, signal.SIGKILL):
        gate = Gate(bench)
        # Reads that wait for the storage are under way when it ends.
        child = bench.start(*TINY, *MADE, "--cache", "warm", "--direct", "on",
                            "--storage", "rtt=10s", "--contenders", "fastload",
                            *gate.options)
        gate.wait_for_run(child)
        gate.let_pass()                 # that was null's
        gate.wait(child)
        gate.open()
        bench.wait_for("guest", child,
                       lambda: any(map(has_guest, bench.processes())))
        device = seen_mount(bench, child)
        if number == signal.SIGKILL:
            child.kill()        # not its server, which has to notice
        else:
            os.killpg(child.pid, number)
        # A server that is left would keep the pipes of the output open.
        bench.finish(child)
        unmounted(device)
        bench.nothing_left()
    gate = Gate(bench)
    child = bench.start(*TINY, "--size", "2M", "--cache", "cold", "--storage",
                        "rtt=1ms", "--contenders", "fastload", *gate.options)
    gate.wait_for_run(child)
    device = seen_mount(bench, child)
    gate.open()
    done = bench.finish(child)
    check(done.code == 0, f"exit code {done.code}: {done.err!r}")
    unmounted(device)
    bench.nothing_left()


@case("without /dev/fuse it says what to do, before any run")
def refused_without_fuse(bench: Bench) -> None:
    needs_simulation(bench)
    if not is_root():
        raise Skip("only root can hide /dev/fuse")
    for args in (("--storage", "nvme"), ("--readahead", "64K")):
        done = bench.raw(*TINY, *MADE, *args, before=(WITHOUT, "fuse"))
        one_sentence(done, 1, "simulate storage.*No such file.*/dev/fuse")
        check(done.out == "", f"stdout has {done.out!r}")


# Only root may open root's /dev/fuse: the user nobody gets one of its own.
AS_NOBODY = """
    mknod "$0" c 10 229
    chmod 666 "$0"
    mount --bind "$0" /dev/fuse
    exec setpriv --reuid nobody --regid nogroup --clear-groups "$@"
    """


@case("who may not mount simulates storage in a user namespace")
def simulated_without_privileges(bench: Bench) -> None:
    needs_simulation(bench)
    if not is_root() or not shutil.which("setpriv"):
        raise Skip("this user cannot be another one")
    folder, program = copy_for_nobody(bench)
    saved = folder / "result.json"
    as_nobody = ("unshare", "--mount", "sh", "-ec", AS_NOBODY,
                 folder / "fuse")
    probe = subprocess.run(
        [*as_nobody, "unshare", "--user", "--map-root-user", "--mount", "sh",
         "-c", "true 3<>/dev/fuse"], cwd="/", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)
    (folder / "fuse").unlink(missing_ok=True)
    if probe.returncode:
        raise Skip(f"nobody has no namespaces here: {probe.stdout.strip()}")
    done = bench.finish(bench.spawn(
        [*as_nobody, program, *TINY, *MADE, "--storage", "rtt=1ms",
         "--readahead", "as-is,64K", "--contenders", "eager,mmap", "--dir",
         folder, "--json", saved], cwd="/"))
    check(done.code == 0, f"exit code {done.code}: {done.err!r}")
    result = load_result(saved)
    all_counted(result, 1)
    for s in scenarios(result):
        for c in s["contenders"][1:]:
            if s["knobs"]["cache"] == "cold":
                check(c["measures"]["cached_bytes"]["max"] == 0,
                      f"{c['label']} was not cold")
                check(c["measures"]["load_ns"] is None or
                      c["measures"]["load_ns"]["min"] >= 1_000_000,
                      f"{c['label']} had no delay")
    bench.nothing_left()
