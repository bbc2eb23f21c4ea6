"""User code made durable: definitions, the private event loop, the journal, the context and replay.

No Redis, no clock and no randomness in here: what a workflow sees depends on its arguments and its journal alone.
"""
