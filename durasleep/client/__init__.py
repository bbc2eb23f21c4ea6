"""Starts, awaits and controls executions; ``durasleep.sync`` is the same for code without asyncio."""

from durasleep.client.client import Client, Handle, Promises

__all__ = ["Client", "Handle", "Promises"]
