"""Compressors: what the ids name, and that each gives what the reader reads."""

import builtins
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hpcc import compressors
from hpcc.compressors import compressor_of, converter_id, make_compressor
from hpcc.errors import SettingsError
from hpcc.settings import Settings
from hpcc.squashfs.compression import decompressor

EVERY = ["gzip", "gzip:1", "gzip:12", "zstd", "zstd:1", "zstd:22", "lz4", "xz"]
DATA = b"".join(b"line %d of some text\n" % (number * number) for number in range(4000))


@pytest.mark.parametrize("compression", EVERY)
def test_what_is_compressed_comes_back(compression: str) -> None:
    made = make_compressor(compression)
    assert made.id == converter_id(compression)
    with ThreadPoolExecutor(4) as pool:
        packed = set(pool.map(made.compress, [DATA] * 16))
    assert len(packed) == 1
    assert len(packed_data := packed.pop()) < len(DATA) / 2
    assert decompressor(made.squashfs_id)(packed_data, len(DATA)) == DATA


def test_no_two_have_one_id() -> None:
    assert len({converter_id(compression) for compression in EVERY}) == len(EVERY)
    assert all(name.replace("-", "").replace(".", "").replace("_", "").isalnum() for name in map(converter_id, EVERY))


@pytest.mark.parametrize("compression", EVERY)
def test_an_id_leads_back_to_its_compressor(compression: str) -> None:
    wanted = converter_id(compression)
    found = compressor_of(wanted)
    assert found is not None and found.id == wanted
    assert found.compress(DATA) == make_compressor(compression).compress(DATA)


@pytest.mark.parametrize(
    "converter",
    ["", "1", "1-gzip", "1-gzip-isal0.0-2-x86_64", "1-gzip-libdeflate.00000000-9-x86_64", "1-lzma-x-1-x86_64",
     "1-gzip-libdeflate.00000000-99-x86_64", "1-zstd-zstd1.0-999999999999-x86_64", "0-gzip-zlib1.3-6-x86_64"],
)  # fmt: skip
def test_other_ids_lead_nowhere(converter: str) -> None:
    assert compressor_of(converter) is None


def test_an_id_changes_with_what_a_library_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = converter_id("gzip:9")
    import deflate

    real = deflate.zlib_compress
    monkeypatch.setattr(deflate, "zlib_compress", lambda data, level: real(data, level - 1))
    assert converter_id("gzip:9") != before
    monkeypatch.undo()
    assert len({converter_id(f"gzip:{level}").split("-")[2] for level in range(1, 13)}) == 12


@pytest.mark.parametrize("module, compression", [("deflate", "gzip:9"), ("lz4", "lz4")])
def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch, module: str, compression: str) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(SettingsError, match=module) as caught:
        make_compressor(compression)
    assert "hpcc[compress]" in caught.value.hint
    assert make_compressor().id == compressors.converter_id()


@pytest.mark.parametrize(
    "text, parsed",
    [("gzip", "gzip"), ("GZIP:9", "gzip:9"), (" zstd:019 ", "zstd:19"), ("lz4", "lz4"), ("xz", "xz")],
)
def test_the_setting(text: str, parsed: str) -> None:
    assert Settings.from_environ({"HPCC_COMPRESSION": text}).compression == parsed


@pytest.mark.parametrize("text", ["gz", "gzip:", "gzip:0", "gzip:13", "zstd:23", "zstd:-1", "lz4:1", "xz:6", "gzip:²"])
def test_what_the_setting_refuses(text: str) -> None:
    with pytest.raises(SettingsError, match=r"gzip\[:1-12\], zstd\[:1-22\], lz4, xz"):
        Settings.from_environ({"HPCC_COMPRESSION": text})
