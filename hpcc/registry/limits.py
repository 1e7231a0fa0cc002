"""How much a registry lets us ask: Docker Hub's rate limit headers, and Retry-After in its dialects.

ratelimit-limit: 100;w=21600        ratelimit-remaining: 20;w=21600      docker-ratelimit-source: 192.0.2.1
"""

from collections.abc import Mapping
from typing import NamedTuple


class RateLimit(NamedTuple):
    """limit and remaining count manifest GETs in `window` seconds; `source` is who is counted, "" where not said."""

    limit: int
    remaining: int
    window: int
    source: str

    def __str__(self) -> str:
        who = f" for {self.source}" if self.source else ""
        return f"{self.remaining} of {self.limit} pulls left in {self.window / 3600:g} h{who}"


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """What the headers say; None where they say nothing, which means no limit."""
    limit = _quota(headers.get("ratelimit-limit", ""))
    remaining = _quota(headers.get("ratelimit-remaining", ""))
    if limit is None or remaining is None:
        return None
    return RateLimit(limit[0], remaining[0], limit[1], headers.get("docker-ratelimit-source", "")[:200])


def _quota(text: str) -> tuple[int, int] | None:
    number, _, rest = text.partition(";")
    window = next((part.strip()[2:] for part in rest.split(";") if part.strip().startswith("w=")), "0")
    if not number.strip().isdigit() or not window.isdigit():
        return None
    return int(number), int(window)


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_retry_after(text: str, now: float) -> float | None:
    """Seconds from `now` (since the epoch): a number, an HTTP date, or a Go duration such as "880.092µs"; else None."""
    text = text.strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    duration = _go_duration(text.partition(",")[0])
    if duration is not None:
        return duration
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _go_duration(text: str) -> float | None:
    total, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((unit for unit in sorted(_UNITS, key=len, reverse=True) if rest[digits:].startswith(unit)), None)
        if not digits or unit is None:
            return None
        try:
            total += float(rest[:digits]) * _UNITS[unit]
        except ValueError:
            return None
        rest = rest[digits + len(unit) :]
    return total if text else None
