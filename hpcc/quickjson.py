"""JSON without `import json`, which costs 6 ms for the regular expressions of its decoder that we never need.

CPython's own C scanner does the work; where an interpreter has none, json does.
"""

from __future__ import annotations

from hpcc.records import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner asks a decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  (the scanner's interface; it clears it after each call)


def loads(data: bytes) -> Any:
    """The value of a JSON document in UTF-8. ValueError where it is none."""
    text = data.decode("utf-8").strip(" \t\r\n")
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads(text)
    try:
        value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
    except (StopIteration, RecursionError):
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("not JSON: something stands behind the document")
    return value
