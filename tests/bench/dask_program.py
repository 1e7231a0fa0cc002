"""What tests/bench/dask_workers.py runs as a user: LocalCluster and HPCCCluster, by turns. A line of JSON at the end.

dask_program.py HPCC IMAGE DIRECTORY
"""

import json
import subprocess
import sys
import time

import dask.dataframe as dd
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster, wait

from hpcc_dask import HPCCCluster

STARTS, SHUFFLES, WORKERS, PARTITIONS, ROWS = 5, 3, 4, 25, 625_000  # 25 × 625,000 rows of four 8-byte columns: 500 MB
COMMON = {"memory_limit": "4GB", "dashboard_address": ":0", "local_directory": sys.argv[3]}


def local(workers: int) -> LocalCluster:
    return LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **COMMON)


def ours(workers: int) -> HPCCCluster:
    return HPCCCluster(sys.argv[2], n_workers=workers, nthreads=1, **COMMON)


def part(number: int) -> pd.DataFrame:
    random = np.random.default_rng(number)
    columns = {name: random.random(ROWS) for name in "abc"}
    return pd.DataFrame({"key": random.integers(0, 1 << 40, ROWS), **columns})


def up(make) -> float:
    begun = time.perf_counter()
    with make(WORKERS) as cluster, Client(cluster) as client:
        client.wait_for_workers(WORKERS)
        return time.perf_counter() - begun


def shuffle(make) -> float:
    with make(2) as cluster, Client(cluster) as client:
        meta = part(0).iloc[:0]
        frame = dd.from_map(part, list(range(PARTITIONS)), meta=meta).persist()
        wait(frame)
        client.run(lambda: __import__("distributed.shuffle"))
        begun = time.perf_counter()
        shuffled = frame.shuffle("key").persist()
        wait(shuffled)
        seconds = time.perf_counter() - begun
        assert len(shuffled) == PARTITIONS * ROWS
        return seconds


def executions() -> float:
    begun = time.perf_counter()
    for _ in range(WORKERS):
        subprocess.run([sys.argv[1], "exec", sys.argv[2], "true"], check=True)
    return time.perf_counter() - begun


def main() -> None:
    executions()
    up(ours)  # the image's files, and the answer of its preflight, are there from now on
    found = {"local": [], "exec": [], "ours": [], "shuffle local": [], "shuffle ours": []}
    for _ in range(STARTS):
        found["local"].append(up(local))
        found["exec"].append(executions())
        found["ours"].append(up(ours))
    for _ in range(SHUFFLES):
        found["shuffle local"].append(shuffle(local))
        found["shuffle ours"].append(shuffle(ours))
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
