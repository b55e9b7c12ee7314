# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel does not permit."""

import json
import os
from pathlib import Path

from bench.places import as_nobody, is_root
from bench.results import all_counted, check_names, scenarios
from bench.stage import LOADERS, MADE, TINY, TRAPPED, Bench, one_sentence
from tap import Skip, case, check


def without_userfaultfd() -> None:
    """Skip where other users may have a userfaultfd."""
    device = Path("/dev/userfaultfd")
    sysctl = Path("/proc/sys/vm/unprivileged_userfaultfd")
    if not sysctl.exists() or sysctl.read_text().strip() != "0":
        raise Skip("vm.unprivileged_userfaultfd is not 0")
    if is_root():
        if device.exists() and device.stat().st_mode & 0o006:
            raise Skip("/dev/userfaultfd is open to everybody")
    elif os.access(device, os.R_OK | os.W_OK):
        raise Skip("this user may open /dev/userfaultfd")


@case("without permission for userfaultfd who needs it is left out, said once")
def left_out_without_userfaultfd(bench: Bench) -> None:
    without_userfaultfd()
    args = (*TINY, *MADE, "--direct", "off")
    done = as_nobody(bench, *args, "--cache", "cold,warm", "--json", "-")
    check(done.code == 0, f"exit code {done.code}, not 0")
    check(done.err == "", f"stderr has {done.err!r}")
    result = json.loads(done.out)
    check_names(result, [name for name in LOADERS if name not in TRAPPED])
    all_counted(result, 1)
    for s in scenarios(result):
        found = [note for note in s["notes"] if "LEFT OUT" in note]
        check(len(found) == 1 and "/dev/userfaultfd" in found[0] and
              "vm.unprivileged_userfaultfd" in found[0] and
              all(name in found[0] for name in TRAPPED), f"it says {found}")
    done = as_nobody(bench, *args, "--cache", "warm")
    check(done.out.count("LEFT OUT") == 1, "the table does not say it once")


@case("without permission for userfaultfd who was named is an error")
def named_without_userfaultfd(bench: Bench) -> None:
    without_userfaultfd()
    for args in (("--contenders", "eager,fastload"),
                 ("--baseline", "two-thread")):
        done = as_nobody(bench, *TINY, *MADE, *args)
        one_sentence(done, 1, "(fastload|two-thread) cannot take part: "
                     ".*/dev/userfaultfd.*vm.unprivileged_userfaultfd")
        check(done.out == "", "it has run")
