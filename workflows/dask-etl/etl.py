"""Temperatures of a month, station by station: extracted, cleaned, summed up and drawn, by workers in an image.

python3 etl.py docker://…                       workers on this machine
python3 etl.py docker://… --on slurm --jobs 4   workers that are jobs

data/station-N.csv     raw readings, as workers find them: some are -999, some are missing
results/days.parquet   mean, least and most of each station and day
results/days.csv       the same, for people
results/days.svg       a line for each station
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import dask.dataframe as dd
import pandas as pd
from distributed import Client

DAYS, PER_DAY = 30, 144
BROKEN = -999.0  # what a sensor says when it has failed
COLOURS = ("#1b6ca8", "#c8553d", "#588157", "#8e5572", "#d4a017", "#3d5a80")


def extract(station: int, directory: str) -> str:
    """Write one station's readings; the file. The same each time. A real one would copy it from somewhere."""
    chance = random.Random(station)
    times = pd.date_range("2026-06-01", periods=DAYS * PER_DAY, freq="10min")
    rows = []
    for number in range(len(times)):
        warmth = 12 + 2 * station + 6 * ((number % PER_DAY) / PER_DAY - 0.5) + chance.gauss(0, 1)
        rows.append(BROKEN if chance.random() < 0.02 else "" if chance.random() < 0.02 else round(warmth, 2))
    path = Path(directory) / f"station-{station}.csv"
    pd.DataFrame({"station": station, "time": times, "celsius": rows}).to_csv(path, index=False)
    return str(path)


def transform(files: list[str]) -> pd.DataFrame:
    """Mean, least, most and number of good readings, by station and day."""
    readings = dd.read_csv(files, parse_dates=["time"])
    good = readings[readings.celsius.notnull() & (readings.celsius != BROKEN)]
    good = good.assign(day=good.time.dt.date.astype("str"))
    days = good.groupby(["station", "day"]).celsius.agg(["mean", "min", "max", "count"])
    return days.compute().sort_index().reset_index()


def load(days: pd.DataFrame, directory: str) -> None:
    """Write the results, and the picture of them."""
    days.to_parquet(f"{directory}/days.parquet", index=False)
    days.round(3).to_csv(f"{directory}/days.csv", index=False)
    Path(f"{directory}/days.svg").write_text(draw(days))


def draw(days: pd.DataFrame, width: int = 720, height: int = 320) -> str:
    """The daily means as an SVG: a line for each station, with its name at the end."""
    left, right, top, bottom = 40, 70, 20, 30
    low, high = int(days["mean"].min()) - 1, int(days["mean"].max()) + 2
    names = sorted(days.day.unique())

    def x(day: str) -> float:
        return left + names.index(day) * (width - left - right) / max(1, len(names) - 1)

    def y(celsius: float) -> float:
        return top + (high - celsius) * (height - top - bottom) / (high - low)

    def text(x: float, y: float, words: str, more: str) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'

    edge = width - right
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for celsius in range(low, high + 1, 5):
        level = f"{y(celsius):.1f}"
        parts.append(f'<line x1="{left}" x2="{edge}" y1="{level}" y2="{level}" stroke="#ddd"/>')
        parts.append(text(left - 6, y(celsius) + 4, f"{celsius} °C", 'text-anchor="end"'))
    parts += [text(x(day), height - 10, day[5:], 'text-anchor="middle"') for day in names[::7]]
    for number, (station, rows) in enumerate(days.groupby("station")):
        points = " ".join(f"{x(day):.1f},{y(mean):.1f}" for day, mean in zip(rows.day, rows["mean"], strict=True))
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(text(edge + 6, y(rows["mean"].iloc[-1]) + 4, f"station {station}", f'fill="{colour}"'))
    shape = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11"'
    return "".join([f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>', *parts, "</svg>\n"])


def run(client: Client, stations: int = 4, data: str = "data", results: str = "results") -> pd.DataFrame:
    """All of it, on the client's workers, which must see these directories at the same paths."""
    for directory in (data, results):
        Path(directory).mkdir(exist_ok=True)
    here = str(Path(data).resolve())
    files = client.gather(client.map(extract, range(stations), directory=here, pure=False))
    days = transform(files)
    load(days, results)
    return days


def main() -> None:
    parser = argparse.ArgumentParser(description="An ETL on Dask's workers in an image.")
    parser.add_argument("image", help="docker://…, or a file")
    parser.add_argument("--on", choices=["slurm"], help="workers are jobs of Slurm, not processes of this machine")
    parser.add_argument("--jobs", type=int, default=2, help="workers")
    parser.add_argument("--stations", type=int, default=4)
    given = parser.parse_args()
    from hpcc_dask import HPCCCluster, HPCCSLURMCluster

    if given.on == "slurm":
        cluster = HPCCSLURMCluster(given.image, cores=1, processes=1, memory="1 GB", n_workers=given.jobs)
    else:
        cluster = HPCCCluster(given.image, n_workers=given.jobs, nthreads=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        days = run(client, given.stations)
    print(days.groupby("station")[["mean", "count"]].agg({"mean": "mean", "count": "sum"}).round(2).to_string())
    print("results/days.svg")


if __name__ == "__main__":
    main()
