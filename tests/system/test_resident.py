"""Memory that only a start needed goes back; what was written stays."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

from trafficrefinery.system.resident import give_back

PAGES = 64


def mapped(path: Path, protection: int) -> mmap.mmap:
    path.write_bytes(b"code" * (PAGES * mmap.PAGESIZE // 4))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=protection)


def resident_kib(path: Path) -> int:
    found = re.search(rf" {re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
    assert found is not None
    return int(found[1])


def test_pages_of_files_that_are_only_read_go_and_come_again(tmp_path):
    library = mapped(tmp_path / "library", mmap.PROT_READ)
    before = library[:]
    assert resident_kib(tmp_path / "library") > 0
    give_back()
    assert resident_kib(tmp_path / "library") == 0
    assert library[:] == before


def test_what_was_written_stays_also_where_nobody_can_write_any_more(tmp_path):
    library = mapped(tmp_path / "library", mmap.PROT_READ | mmap.PROT_WRITE)
    library[:4] = b"link"  # as the dynamic linker does, which then forbids to write
    place = ctypes.addressof(ctypes.c_char.from_buffer(library))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(len(library)), mmap.PROT_READ) == 0
    give_back()
    assert library[:8] == b"linkcode"
