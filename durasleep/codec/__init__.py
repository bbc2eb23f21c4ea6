"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints.

Never pickle, and never an import by a name from data. Nothing else imports msgpack. Each module uses those before it:

    marks        values that name their class
    values       values as MessagePack, without type hints
    type_hints   what a type hint means
    shapes       decoded values, shaped by their type hints
    calls        the arguments of a function
    packing      values to send
    exceptions   errors as payloads
    codec        Codec: all of this in one object
    published    what executions publish
"""

from durasleep.codec.codec import Codec, ErrorAttributes, ErrorHook, PayloadHook

__all__ = ["Codec", "ErrorAttributes", "ErrorHook", "PayloadHook"]
