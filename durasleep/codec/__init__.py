"""Python values as bytes and back: MessagePack with a few extension types, shaped by type hints."""

from durasleep.codec.codec import Codec, ErrorHook, PayloadHook

__all__ = ["Codec", "ErrorHook", "PayloadHook"]
