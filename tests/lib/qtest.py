# SPDX-License-Identifier: GPL-2.0-or-later
"""Building a QEMU by qemu/import, and running QEMU's own qtests in it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from lanes import Job
from step import TOP, prepare
from tapreader import Score

IMPORT = TOP / "qemu" / "import"
WITHOUT = TOP / "tests" / "without"
IMPORT_S = 5400             # only a hang needs more


def import_qemu(score: Score, *options: str) -> None:
    prepare(score, import_name(*options), [IMPORT, *options], IMPORT_S,
            is_loud=True)


def import_name(*options: str) -> str:
    return " ".join(["qemu/import", *options])


def import_job(*options: str, needs: tuple[str, ...] = ()) -> Job:
    """The job is named as one would type it."""
    return Job(import_name(*options),
               lambda score: import_qemu(score, *options), needs=needs)


def qemu_build(*options: str) -> Path:
    """The folder of what `qemu/import OPTIONS` has built."""
    done = subprocess.run([IMPORT, *options, "--print-qemu"], check=True,
                          text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return Path(done.stdout.strip()).parent


def environment(build: Path) -> Mapping[str, str]:
    """What QEMU's own tests/qtest/meson.build sets, and the machine.

    SeaBIOS of Debian 12 looks at the empty CD drive of q35 for half a minute
    before each guest of migration-test boots, but not at that of pc.
    """
    return {
        "QTEST_QEMU_MACHINE_TYPE": "pc",
        "QTEST_QEMU_BINARY": "./qemu-system-x86_64",
        "QTEST_QEMU_IMG": "./qemu-img",
        "G_TEST_DBUS_DAEMON": str(build.parent / "src" / "tests" /
                                  "dbus-vmstate-daemon.sh"),
        "PYTHON": str(build / "pyvenv" / "bin" / "python3"),
        "LC_ALL": "C.UTF-8",
    }


def command(test: str, *options: str) -> list[str]:
    """Run it in the build folder.

    Without KVM where that can be hidden: the tests take KVM where the device
    opens, and wait for ever where it opens and does not work.
    """
    hidden = [str(WITHOUT), "kvm"]
    works = subprocess.run([*hidden, "true"], check=False,
                           stderr=subprocess.DEVNULL).returncode == 0
    return [*(hidden if works else []), f"./tests/qtest/{test}", "--tap", "-k",
            *options]


def migration_test(*options: str) -> list[str]:
    # Without --full only a handful of its cases are there to choose from.
    return command("migration-test", "--full", *options)
