"""User code made durable: definitions, the private event loop, the journal, the context and replay.

There is no Redis, no clock and no randomness here: a workflow sees only its arguments and its journal.
"""
