"""Traffic that belongs to no video service: visits to another site now and then.

Usage: visitor.py SECONDS FAMILY SEED
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time

from names import Resolver
from player import TlsConnection

NAME = "other.example"


def visit(address: str, sizes_kb: list[int]) -> None:
    connection = TlsConnection(NAME, address, "tls1.3", [])
    for size_kb in sizes_kb:
        connection.get(f"/other/{size_kb}.bin")
    connection.close()


def run(duration_s: float, family: int, seed: int) -> None:
    chance = random.Random(seed)
    resolver = Resolver(seed)
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        address = resolver.address(NAME, family)
        loads = [chance.choices((5, 20, 60, 150), (4, 3, 2, 1), k=3) for _ in range(2)]
        threads = [threading.Thread(target=visit, args=(address, sizes)) for sizes in loads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if chance.random() < 0.3:
            with contextlib.suppress(LookupError):
                resolver.address(f"missing{chance.randrange(100)}.example", family)
        time.sleep(chance.uniform(12, 30))


if __name__ == "__main__":
    run(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
