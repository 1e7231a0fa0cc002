"""Dask workers in containers, on one machine or a cluster."""
