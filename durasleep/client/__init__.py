"""Starts, awaits and controls executions; ``durasleep.sync`` is the same for code without asyncio."""

from durasleep.client.client import Client, Handle

__all__ = ["Client", "Handle"]
