"""quickjson reads what json reads, and refuses the rest by ValueError."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcc.quickjson import loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans(), st.integers(0, 3))
def test_it_reads_what_json_writes(value: object, ascii_only: bool, indent: int) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(data)
    except UnicodeDecodeError:
        with pytest.raises(ValueError):
            loads(data)
        return
    assert loads(data) == expected
    assert loads(b" \n" + data + b"\n ") == expected


@given(st.binary())
def test_anything_else_is_a_value_error(data: bytes) -> None:
    try:
        value = loads(data)
    except ValueError:
        return
    assert value == json.loads(data) or value != value


@pytest.mark.parametrize("data", [b"", b" ", b"{", b"[1,]", b'{"a":1} x', b"nul", b'"\n"', b"\xff", b"[" * 100_000])
def test_damaged_documents(data: bytes) -> None:
    with pytest.raises(ValueError):
        loads(data)


def test_it_does_not_import_json() -> None:
    import subprocess

    program = (
        "import sys; from hpcc.quickjson import loads; loads(b'{\"a\":[1,2.5,null]}'); print('json' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
