# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's source with our files and patches: puts them in, takes them out.

A file that was edited by hand is overwritten only on request.  A series that
does not fit leaves the tree as it was.  Knows nothing of building.
"""

import filecmp
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import layout
from layout import TOP, Base, Fail, Patch, shown
from source import Source, last_words, run_tool
from steps import say


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class Tree:
    """The patched tree of one base, and what was put into it last time.

    installed: path -> SHA-256 of each file that we put there.
    ours: the paths of those that QEMU itself does not have.
    A file that is neither what we put there nor what we are about to put there
    was edited by hand.
    """

    def __init__(self, base: Base, keep_edits: bool) -> None:
        self.base = base
        self.keep_edits = keep_edits
        self.installed: dict[str, str] = {}
        self.ours: set[str] = set()
        if base.state.exists():
            state = json.loads(base.state.read_text())
            self.installed = state["installed"]
            self.ours = set(state["ours"])

    def make(self, source: Source) -> None:
        """Unpack the source, unless the tree is from the same source."""
        base = self.base
        if base.stamp.exists() and base.stamp.read_text() == source.stamp \
                and base.src.is_dir():
            return
        if base.src.is_dir():
            self._refuse_edits({})
        say("unpack", shown(base.src))
        fresh = base.root / "src.new"
        shutil.rmtree(fresh, ignore_errors=True)
        source.unpack(fresh)
        self._set_aside()
        fresh.rename(base.src)
        self.installed, self.ours = {}, set()
        base.stamp.write_text(source.stamp)

    def _parts(self) -> list[tuple[Path, Path]]:
        """Each file and folder of one source, and its name when set aside."""
        base = self.base
        return [(path, path.with_name(path.name + ".old")) for path in
                (base.stamp, base.state, base.orig, *base.builds(),
                 base.src)]

    def _set_aside(self) -> None:
        self.forget_old()
        for path, old in self._parts():
            if path.exists():
                path.rename(old)

    def put_back(self) -> None:
        """Our patches do not fit the new source: restore the old one."""
        if not any(old.exists() for _, old in self._parts()):
            return
        for path, old in self._parts():
            remove(path)
            if old.exists():
                old.rename(path)

    def forget_old(self) -> None:
        for _, old in self._parts():
            remove(old)

    def install(self) -> None:
        """Stage patches and files; if all of them fit, put them in place."""
        base = self.base
        shutil.rmtree(base.stage, ignore_errors=True)
        base.stage.mkdir(parents=True)
        patches = layout.series(base)
        own = layout.own_files(base)
        appended = layout.manifest()[1]
        for patch in patches:
            self._stage_patch(patch)
        for path in appended:
            self._stage_pristine(path, "qemu/MANIFEST appends to")
            with (base.stage / path).open("ab") as file:
                file.write((TOP / path).read_bytes())
        for path, here in own.items():
            self._stage_ours(path, here)
        staged = {str(path.relative_to(base.stage)): digest_of(path)
                  for path in base.stage.rglob("*") if path.is_file()}
        self._refuse_edits(staged)
        changed = self._put(staged, set(own))
        shutil.rmtree(base.stage)
        say("tree", f"patches: {len(patches)}, adding "
            f"{sum(patch.added for patch in patches)} lines; our files: "
            f"{len(own)}, sections: {len(appended)}; "
            f"changed since the last run: {changed}")

    def _pristine(self, path: str) -> Path | None:
        """QEMU's own copy of a file, or None when QEMU has none."""
        kept = self.base.orig / path
        if kept.exists():
            return kept
        here = self.base.src / path
        return here if here.is_file() and path not in self.ours else None

    def _stage_pristine(self, path: str, who: str) -> None:
        target = self.base.stage / path
        if target.exists():
            return
        pristine = self._pristine(path)
        if not pristine:
            raise Fail(f"{who} {path}, which QEMU {self._version()} does not "
                       "have: correct the name, or list the file in "
                       "qemu/MANIFEST.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pristine, target)
        target.chmod(pristine.stat().st_mode & 0o777)

    def _stage_patch(self, patch: Patch) -> None:
        for path in patch.files:
            self._stage_pristine(path, f"{shown(patch.path)} changes")
        before = {path: (self.base.stage / path).read_text(errors="replace")
                  .splitlines()
                  for path in patch.files}
        # No fuzz: with one line of context it would let a hunk go anywhere.
        done = run_tool(["patch", "-p1", "-F0", "--force", "-r", "-",
                         "--no-backup-if-mismatch", "-d",
                         str(self.base.stage), "-i", str(patch.path)],
                        env=dict(os.environ, LC_ALL="C"))
        failed: list[str] = []
        moved, path = 0, "?"
        for line in done.stdout.splitlines():
            if line.startswith("patching file "):
                path = line[14:].strip("'")
            hunk = re.match(r"Hunk #(\d+) FAILED at (\d+)", line)
            if hunk:
                failed.append(f"{path} hunk {hunk.group(1)} "
                              f"(line {hunk.group(2)}) failed")
            hunk = re.match(r"Hunk #(\d+) .*\(offset (-?\d+) line", line)
            if hunk:
                moved += 1
                failed += self._astray(patch, path, before[path],
                                       int(hunk.group(1)), int(hunk.group(2)))
        if failed:
            raise Fail(f"{shown(patch.path)} does not fit QEMU "
                       f"{self._version()}: {', '.join(failed)}; "
                       "nothing was changed, correct the patch (see "
                       "qemu/README.md).")
        if done.returncode:
            raise Fail(f"patch cannot read {shown(patch.path)} "
                       f"({last_words(done.stdout)}); make it again with "
                       "qemu/refresh.")
        if moved:
            say("patch", f"{patch.name}: {moved} hunks at other lines")

    @staticmethod
    def _astray(patch: Patch, path: str, lines: list[str], number: int,
                offset: int) -> Iterator[str]:
        """Why a hunk that fits at other lines is in the wrong function."""
        start, section = patch.hunks[path][number - 1]
        found = layout.section_of(lines, start + offset)
        if section and section != found:
            yield (f"{path} hunk {number} (line {start}) belongs to "
                   f"'{section}' and fits only in '{found}'")

    def _stage_ours(self, path: str, here: Path) -> None:
        if self._pristine(path):
            raise Fail(f"{shown(here)} is to be QEMU's {path}, but QEMU "
                       f"{self._version()} has a file of that name: rename "
                       "ours, or write 'append' before it in qemu/MANIFEST.")
        target = self.base.stage / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here, target)

    def _version(self) -> str:
        try:
            return (self.base.src / "VERSION").read_text().strip()
        except OSError:
            return self.base.name

    def _refuse_edits(self, staged: dict[str, str]) -> None:
        """Fail when files in src were edited and would be overwritten."""
        if not self.keep_edits:
            return
        edited = []
        for path, digest in self.installed.items():
            here = self.base.src / path
            if here.is_file() and digest_of(here) not in (digest,
                                                          staged.get(path)):
                edited.append(path)
        if edited:
            raise Fail(f"Edited in {shown(self.base.src)}: "
                       f"{', '.join(edited)}; qemu/refresh takes changes of "
                       "QEMU's files into the patches; copy our own files "
                       "back by hand; qemu/import --discard-edits discards "
                       "all changes.")

    def _put(self, staged: dict[str, str], ours: set[str]) -> int:
        """Change src to what was staged; how many files changed."""
        base, changed = self.base, 0
        # Saved first, so that the next run knows our files if this one is
        # killed.
        self._save(self.installed, self.ours | ours)
        for path in sorted((set(self.installed) | self.ours) - set(staged)):
            changed += self._take_out(path)
        for path in sorted(staged):
            here, kept = base.src / path, base.orig / path
            if path not in ours and not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                draft = kept.with_name(kept.name + ".new")
                shutil.copy2(here, draft)
                draft.rename(kept)
            changed += self._replace(base.stage / path, here)
        self._save(staged, ours)
        return changed

    def _save(self, installed: dict[str, str], ours: set[str]) -> None:
        self.installed, self.ours = installed, ours
        draft = self.base.state.with_suffix(".new")
        draft.write_text(json.dumps(
            {"installed": installed, "ours": sorted(ours)}, indent=1))
        draft.rename(self.base.state)

    def _take_out(self, path: str) -> int:
        here, kept = self.base.src / path, self.base.orig / path
        if kept.exists():
            self._replace(kept, here)
            kept.unlink()
        else:
            here.unlink(missing_ok=True)
            while here.parent.is_dir() and not any(here.parent.iterdir()):
                here = here.parent
                here.rmdir()
        return 1

    @staticmethod
    def _replace(new: Path, here: Path) -> int:
        if here.is_file() and filecmp.cmp(new, here, shallow=False):
            return 0
        here.parent.mkdir(parents=True, exist_ok=True)
        draft = here.with_name(here.name + ".new")
        shutil.copy(new, draft)     # with a new time, so that ninja builds it
        draft.rename(here)
        return 1
