"""The compressor gives the same bytes on each CPU model; level 3 of the same library does not.

An old CPU without AVX is emulated by qemu-user, in one process: an exec would leave the emulator.
"""

import os
import platform
import random
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.real import need

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="CPU models of x86_64 are compared")

BLOCKS = """
import hashlib, sys
from isal import isal_zlib
from hpcc.compressors import BLOCK_SIZE, make_compressor
sys.path.append(sys.argv[1])
from tests.integration.test_determinism import COMPRESSIONS, samples
packs = {name: make_compressor(name).compress for name in COMPRESSIONS}
for name, pack in {**packs, "3": lambda data: isal_zlib.compress(data, 3)}.items():
    digest = hashlib.sha256()
    for data in samples():
        for at in range(0, len(data), BLOCK_SIZE * (8 if name in ("xz", "zstd:19") else 1)):
            digest.update(pack(data[at : at + BLOCK_SIZE]))
    print(name, digest.hexdigest())
"""

SMALL = """
import hashlib, random
from hpcc.compressors import make_compressor
compress, source, digest = make_compressor().compress, random.Random(5), hashlib.sha256()
for _ in range(400):
    data = bytes(source.choices(b"\\0\\0\\0\\0\\1\\2abc", k=source.choice([7, 8, 9, 50, 100, 300, 600, 1000, 3000])))
    digest.update(compress(data))
print(digest.hexdigest())
"""

IMAGE = """
import sys
sys.path.append(sys.argv[1])
exec(__import__("tests.integration.test_convert").integration.test_convert.SCRIPT)
"""


COMPRESSIONS = ["gzip", "gzip:1", "gzip:6", "gzip:9", "zstd", "zstd:9", "zstd:19", "lz4", "xz"]


def samples() -> list[bytes]:
    """Some 4 MB: words, machine code, tables of numbers, noise with repetitions."""
    source = random.Random(17)
    words = [bytes(source.choices(b"etaoinshrdlu", k=source.randint(2, 9))) for _ in range(3000)]
    text = b" ".join(source.choices(words, k=200_000))
    table = b"".join(b"%d\t%.3f\n" % (index, source.random() * index) for index in range(60_000))
    noise = source.randbytes(300_000)
    mixed = b"".join(noise[at : at + source.randint(1, 400)] for at in (source.randrange(300_000) for _ in range(4000)))
    with open(os.path.realpath("/bin/sh"), "rb") as file:
        code = file.read()
    return [text, table, noise, mixed, code]


def run(code: str, *emulator: str) -> str:
    # The real interpreter: the one of a venv would be found by name, and its site-packages with it.
    interpreter = os.path.realpath(sys.executable)
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    done = subprocess.run(
        [*emulator, interpreter, "-c", code, str(ROOT)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def emulated(code: str) -> str:
    return run(code, need("qemu-x86_64"), "-cpu", "Nehalem")


def test_blocks_are_the_same_on_an_old_cpu() -> None:
    native = dict(line.split() for line in run(BLOCKS).splitlines())
    old = dict(line.split() for line in emulated(BLOCKS).splitlines())
    assert native["3"] != old["3"], "both ran on the same kind of CPU, so this test would find nothing out"
    assert {name: native[name] == old[name] for name in COMPRESSIONS} == dict.fromkeys(COMPRESSIONS, True)


def test_blocks_are_the_same_wherever_memory_lies() -> None:
    """ISA-L's plain level 2 fails this: one block in 1200 depends on an address (docs/adr/0007-isal-first-bytes.md)."""
    assert len({run(SMALL) for _ in range(40)}) == 1


def test_a_whole_image_is_the_same_on_an_old_cpu() -> None:
    assert run(IMAGE) == emulated(IMAGE) != ""
