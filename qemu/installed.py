# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages of the machine: which are missing, and installing them.

A list is a file with one package a line; a second word, "optional", marks a
package that some releases of Debian lack.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import layout
from layout import Fail
from steps import say

LISTS_MAX_AGE_S = 24 * 3600


def listed(lists: Sequence[Path]) -> list[str]:
    """The packages of those files that this release of Debian can have."""
    rows = [row for path in lists for row in layout.table(path)]
    return [row[0] for row in rows if len(row) == 1 or is_known(row[0])]


def is_known(name: str) -> bool:
    done = subprocess.run(["apt-cache", "show", "-q=0", name], check=False,
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    return done.returncode == 0


def missing_packages(names: Sequence[str]) -> list[str]:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *names],
        check=False, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL)
    there = {line.split()[1] for line in done.stdout.splitlines()
             if line.startswith("installed ")}
    return [name for name in names if name not in there]


def lists_are_old() -> bool:
    lists = [path.stat().st_mtime
             for path in Path("/var/lib/apt/lists").glob("*Packages*")]
    return not lists or time.time() - max(lists) > LISTS_MAX_AGE_S


def install_packages(lists: Sequence[Path]) -> None:
    """Install what is missing of those lists; as root or with sudo."""
    if not shutil.which("dpkg-query") or not shutil.which("apt-get"):
        raise Fail("This is not a Debian system: install what "
                   f"{' and '.join(layout.shown(path) for path in lists)} "
                   "lists under the names your system has.")
    missing = missing_packages(listed(lists))
    if not missing:
        say("packages", "all there")
        return
    say("packages", "missing: " + " ".join(missing))
    # --no-remove: some libraries have variants that exclude each other.
    command = ["apt-get", "-q", "-y", "-o", "Acquire::Retries=3",
               "-o", "Dpkg::Use-Pty=0", "install", "--no-remove",
               "--no-install-recommends", *missing]
    prefix = ["env", "DEBIAN_FRONTEND=noninteractive"]
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            raise Fail("Packages are missing and there is no sudo; run as "
                       f"root: apt-get install {' '.join(missing)}")
        prefix = ["sudo", *prefix]
    updated = lists_are_old()
    if updated:
        # It may fail for other sources of the user; the installation tells.
        subprocess.run([*prefix, "apt-get", "-q", "update"], check=False)
    if subprocess.run([*prefix, *command], check=False).returncode:
        if not updated:
            subprocess.run([*prefix, "apt-get", "-q", "update"], check=False)
            subprocess.run([*prefix, *command], check=False)
    missing = missing_packages(listed(lists))
    if missing:
        raise Fail("apt-get could not install all packages; see above, then "
                   f"run as root: apt-get install {' '.join(missing)}")
