"""Embed an imaging archive once; then train probes and find similar cases without its pixels."""

__version__ = "0.1.0"
