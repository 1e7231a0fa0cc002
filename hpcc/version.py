"""The version of this hpcc."""

__version__ = "0.1.0"
