# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the parts of a mapped-ram snapshot lie, by the file's own lists.

The tests parse the format themselves: what they damage or expect must not
follow from the code under test.
"""

from pathlib import Path
import struct
from typing import NamedTuple

MAIN_MEMORY = "pc.ram"
MEM_SIZE_MASK = 0xfff       # flags of the stream, in the low bits of a length
# version, page size, bitmap's offset, pages' offset; packed
HEADER = struct.Struct(">IQQQ")


class RamBlock(NamedTuple):
    name: str
    entry_off: int              # where its entry in the list begins
    ram_bytes: int
    header_off: int
    bitmap_off: int
    pages_off: int


def ram_blocks(path: Path) -> list[RamBlock]:
    """The snapshot's RAM blocks in the file's order."""
    blocks = []
    with open(path, "rb") as f:
        name = MAIN_MEMORY.encode()
        at = f.read(1 << 16).index(bytes([len(name)]) + name)
        f.seek(at - 8)
        left = int.from_bytes(f.read(8), "big") & ~MEM_SIZE_MASK
        while left > 0:
            f.seek(at)
            name = f.read(f.read(1)[0])
            ram_bytes = int.from_bytes(f.read(8), "big")
            header_off = f.tell()
            header = f.read(HEADER.size)
            if header[:4] != b"\0\0\0\1":      # x-ignore-shared: an address
                header_off += 8
                header = header[8:] + f.read(8)
            _, _, bitmap_off, pages_off = HEADER.unpack(header)
            blocks.append(RamBlock(name.decode(), at, ram_bytes, header_off,
                                   bitmap_off, pages_off))
            at = pages_off + ram_bytes
            left -= ram_bytes
    return blocks


def ram_block(path: Path, name: str = MAIN_MEMORY) -> RamBlock:
    return next(block for block in ram_blocks(path) if block.name == name)
