"""Run by the image's own python3: put the results of the other rules together on standard output."""

import sys
from pathlib import Path
from statistics import median

lines, words, readings, image = (Path(name).read_text().splitlines() for name in sys.argv[1:])
values = [float(line.split("\t")[1]) for line in readings]
print(f"image {image[0]}")
print(f"poem {lines[0]} lines, {words[0]} words")
print(f"readings {len(values)}, lowest {readings[0].split()[0]}, median {median(values):g}")
