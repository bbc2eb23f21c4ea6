"""Which partition an id belongs to, and the hash tag that keeps all keys of a partition on one node of a cluster."""

from __future__ import annotations

from binascii import crc_hqx
from functools import lru_cache
from itertools import count

from durasleep.errors import InvalidId
from durasleep.model import root_of

PARTITIONS_MAX = 256
SLOTS = 16_384
"""Hash slots of a Redis Cluster; each belongs to one node."""


def slot_of(tag: str | bytes) -> int:
    """The hash slot of a key whose hash tag this is, without its braces.

    It is CRC16 of the tag (polynomial 0x1021), modulo 16384: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """
    return crc_hqx(tag.encode() if isinstance(tag, str) else tag, 0) % SLOTS


def part_of(id: str) -> str:
    """The part of an id that chooses its partition: the text in its first ``{...}``, or else the id of its root.

    So ``{customer-7}:order-1`` and ``{customer-7}:order-2`` are neighbours. An empty ``{}`` counts as none, as
    in a key of Redis. InvalidId if a brace has no partner.
    """
    root = root_of(id)
    if "{" not in root and "}" not in root:
        return root
    _check_braces(root)
    return root.partition("{")[2].partition("}")[0] or root


def partition_of(id: str, partitions: int) -> int:
    """The number of the partition of an id, from 0."""
    part = part_of(id) if "~" in id or "{" in id or "}" in id else id  # it is asked for in each call
    # What no id may have is refused where it is used: half a pair of surrogates is in no partition.
    return crc_hqx(part.encode("utf-8", "surrogatepass"), 0) % partitions


@lru_cache(maxsize=4 * PARTITIONS_MAX)
def short_tag(partition: int, partitions: int) -> str:
    """What stands in the braces of an id that must be in this partition: a short one; empty if there is only one."""
    if partitions == 1:
        return ""
    return next(tag for tag in map(str, count()) if partition_of(tag, partitions) == partition)


@lru_cache(maxsize=4 * PARTITIONS_MAX)
def tag_of(namespace: str, partition: int, partitions: int) -> str:
    """The hash tag of a partition, without its braces: ``ns:0`` if it is the only one, else ``ns:5.3`` with a salt.

    The salt is the first one whose slot lies in the middle half of this partition's share of all slots. The nodes of a
    cluster nearly always have equal ranges of slots, so each gets as many partitions as the others.
    """
    if partitions == 1:
        return f"{namespace}:0"
    share = SLOTS / partitions
    low, high = (partition + 0.25) * share, (partition + 0.75) * share
    salt = 0
    while not low <= slot_of(tag := f"{namespace}:{partition}.{salt}") < high:
        salt += 1
    return tag


def _check_braces(id: str) -> None:
    is_open = False
    for char in id:
        if char in "{}":
            if is_open == (char == "{"):
                break
            is_open = not is_open
    else:
        if not is_open:
            return
    raise InvalidId(
        f"id {id!r}: in a namespace with several partitions each '{{' has its own '}}', and neither is inside another "
        "pair, because the text between the first two chooses the partition"
    )
