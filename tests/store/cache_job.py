"""A job as a process of its own: reads objects through a cache, and tells what it fetched.

``python cache_job.py DIRECTORY ORDER [slow | die]``; ORDER as ``3,1,2``. It waits for a line on
stdin before it begins.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from kept_objects import Objects

from lxmert_dist.store.cache import DiskCache

directory, order, *how = sys.argv[1:]
objects = Objects(8)
cache = DiskCache(Path(directory), patience_s=30)


def fetch(entry, buffer):
    objects.fetch(entry, buffer)
    if "slow" in how:
        time.sleep(0.02)
    if "die" in how:  # in the middle of the write that follows
        write = os.pwrite

        def half(descriptor, data, offset):
            write(descriptor, bytes(data[: len(data) // 2]), offset)
            os.kill(os.getpid(), signal.SIGKILL)

        os.pwrite = half


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


tell("ready")
sys.stdin.readline()
for number in map(int, order.split(",")):
    assert objects.read(cache, number, fetch=fetch) == objects.data[number]
tell(json.dumps({"fetched": sorted(objects.fetched.elements()), **cache.counts}))
