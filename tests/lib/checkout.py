# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the checkout: which there are, and of what kind."""

import re
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
SKIPPED_FOLDERS = re.compile(r"(^|/)(\.git|build[^/]*|__pycache__)(/|$)")


def all_files() -> list[str]:
    """Paths from TOP of what is, or would be, under version control."""
    try:
        out = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"],
            cwd=TOP, check=True, capture_output=True).stdout.decode()
        names = out.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [str(path.relative_to(TOP)) for path in TOP.rglob("*")]
    return sorted(name for name in set(names)
                  if name and not SKIPPED_FOLDERS.search(name)
                  and (TOP / name).is_file())


def shebang(name: str) -> str:
    """The first line where it begins with #!, else nothing."""
    with open(TOP / name, "rb") as file:
        first = file.readline(100).decode(errors="replace").strip()
    return first if first.startswith("#!") else ""


def is_python(name: str) -> bool:
    return name.endswith(".py") or bool(
        re.search(r"\bpython3?$", shebang(name)))


def is_shell(name: str) -> bool:
    return name.endswith(".sh") or bool(
        re.search(r"\b(ba|da)?sh$", shebang(name)))


def is_makefile(name: str) -> bool:
    return "/make " in f"{shebang(name)} "


def is_c(name: str) -> bool:
    return name.endswith((".c", ".h"))


def is_source(name: str) -> bool:
    return is_c(name) or is_python(name) or bool(shebang(name))


def is_binary(name: str) -> bool:
    return b"\0" in (TOP / name).read_bytes()[:8000]
