"""Addresses that registries send us on to: read without trusting them. Pure."""

from urllib.parse import SplitResult, urljoin, urlsplit


def split(url: str) -> SplitResult | None:
    """The parts of an address from outside; None where it is none."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None  # `port` raises for what is no number
    except ValueError:
        return None


def join(base: str, location: str) -> str:
    """Where a redirect from `base` leads; "" where that is no address."""
    try:
        return urljoin(base, location)
    except ValueError:
        return ""


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: who sees what is sent there. RFC 6454."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
