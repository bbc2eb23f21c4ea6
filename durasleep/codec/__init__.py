"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints.

Never pickle, and never an import by a name from data. Nothing else imports msgpack. Each module stands on those before:

    marks        values that say of which class they were
    values       values as MessagePack, without hints
    type_hints   what a hint means
    shapes       values that have come, as their hints say
    calls        the arguments of a function
    packing      values that are sent
    exceptions   errors as payloads
    codec        Codec: all of it
"""

from durasleep.codec.codec import Codec, ErrorHook, PayloadHook

__all__ = ["Codec", "ErrorHook", "PayloadHook"]
