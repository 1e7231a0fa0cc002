"""How much a registry lets us ask: Docker Hub's rate limit headers, and Retry-After in its dialects. Pure.

ratelimit-limit: 100;w=21600        ratelimit-remaining: 20;w=21600      docker-ratelimit-source: 192.0.2.1
"""

from collections.abc import Mapping

from hpcc.records import NamedTuple

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BY_LENGTH = sorted(_UNITS, key=len, reverse=True)
_YEAR = 366 * 86400.0


class RateLimit(NamedTuple):
    """limit and remaining count manifest GETs in `window` seconds; `source` is who is counted, "" where not said."""

    limit: int
    remaining: int
    window: int
    source: str

    def __str__(self) -> str:
        who = f" for {self.source}" if self.source else ""
        window = f" in {self.window / 3600:g} h" if self.window else ""
        return f"{self.remaining} of {self.limit} pulls left{window}{who}"


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """What the headers say (names in any case where the mapping allows it); None where they say no limit."""
    limit = _quota(headers.get("ratelimit-limit", ""))
    remaining = _quota(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None:
        return None
    source = "".join(c for c in headers.get("docker-ratelimit-source", "")[:200] if c.isprintable())
    return RateLimit(limit[0], remaining[0], limit[1], source)


def _quota(text: str) -> tuple[int, int] | None:
    number, _, rest = text.partition(";")
    window = next((part.strip()[2:] for part in rest.split(";") if part.strip().startswith("w=")), "0")
    if not _is_number(number.strip()) or not _is_number(window):
        return None
    return int(number), int(window)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


def find_retry_after(headers: Mapping[str, str], said: str, now: float) -> float | None:
    """Seconds to wait by the header, or by the words of the answer, where GHCR has them; None where nobody says."""
    found = parse_retry_after(headers.get("Retry-After", ""), now)
    if found is None and "retry-after:" in said.lower():
        found = parse_retry_after(said.lower().partition("retry-after:")[2].partition(",")[0], now)
    return found


def parse_retry_after(text: str, now: float) -> float | None:
    """Seconds from `now` (since the epoch), 0 to a year: a number, a date, or a Go duration ("880.092µs"); else None.

    RFC 9110, 10.2.3; Docker Hub is known to send the second of the epoch in a number.
    """
    text = text.strip()[:100].replace("Âµ", "µ")  # UTF-8 in a header, which is read as latin-1
    if _is_number(text):
        seconds = float(text)
        return _bounded(seconds - now if seconds > _YEAR else seconds)
    duration = _go_duration(text)
    if duration is not None:
        return _bounded(duration)
    from email.utils import parsedate_to_datetime

    try:
        return _bounded(parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(0.0, seconds), _YEAR)


def _go_duration(text: str) -> float | None:
    """1h2m3.5s in seconds; a bare decimal fraction counts as seconds too."""
    total, rest = 0.0, text.strip()
    if not rest:
        return None
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        unit = next((unit for unit in _BY_LENGTH if rest.startswith(unit, len(number))), "")
        if not unit and (total or len(number) < len(rest)):
            return None
        try:
            total += float(number) * _UNITS.get(unit, 1.0)
        except ValueError:
            return None
        rest = rest[len(number) + len(unit) :]
    return total
