"""What the nodes of a cluster say, taken together, and what the cluster itself may lose or stop. See ``doctor``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from durasleep.protocol.slots import Location
from durasleep.query.doctor import NO_REPLICA, Diagnosis, Facts, Level, diagnose, worst_first

_MANY_MORE = 2  # partitions on one node than on another: a third of the nodes would do half the work


def diagnose_cluster(nodes: Mapping[str, Facts], locations: Sequence[Location]) -> list[Diagnosis]:
    """What the facts of all masters mean, the worst first; what all of them say is said once."""
    each = {node: [one for one in diagnose(facts) if one != NO_REPLICA] for node, facts in nodes.items()}
    counts = Counter(found for node in each.values() for found in node)
    common = [found for found, count in counts.items() if count == len(nodes)]
    single = [
        Diagnosis(one.level, one.subject, f"{node}: {one.text}", one.advice)
        for node, found in each.items()
        for one in found
        if counts[one] < len(nodes)
    ]
    return worst_first([*_cluster(nodes), *_partitions(locations), *common, *single])


def _cluster(nodes: Mapping[str, Facts]) -> Iterator[Diagnosis]:
    yield Diagnosis(Level.GOOD, "cluster", f"{len(nodes)} nodes serve slots")
    alone = [node for node, facts in nodes.items() if facts.info.get("connected_slaves", "1") == "0"]
    if alone:
        yield Diagnosis(
            Level.DANGER,
            "cluster",
            f"no replica follows {', '.join(alone)}: if it is lost, its partitions are lost, too",
            "add a replica for each node that serves slots",
        )
    if any(facts.config.get("cluster-require-full-coverage", "no") == "yes" for facts in nodes.values()):
        yield Diagnosis(
            Level.WARNING,
            "cluster",
            "cluster-require-full-coverage is yes: while one node is lost and no replica has taken over, all stop",
            "set it to no: then the partitions of the other nodes go on",
        )


def _partitions(locations: Sequence[Location]) -> Iterator[Diagnosis]:
    for number, place in enumerate(locations):
        if place.moving_to:
            text = f"the slot of partition {number} is moving to {place.moving_to}: its calls wait until it has arrived"
            yield Diagnosis(Level.WARNING, "partitions", text, "let the move come to its end")
    silent: dict[str, list[str]] = {}
    for number, place in enumerate(locations):
        if not place.answers:
            silent.setdefault(place.node, []).append(str(number))
    for node, numbers in silent.items():
        yield Diagnosis(
            Level.DANGER,
            "cluster",
            f"{node} does not answer: what is in partition{'s' * (len(numbers) > 1)} {', '.join(numbers)} waits",
            "start it again, or let a replica take over",
        )
    on = Counter(place.node for place in locations)
    counts = ", ".join(f"{count} on {node}" for node, count in sorted(on.items()))
    if len(locations) == 1:
        yield Diagnosis(
            Level.WARNING,
            "partitions",
            f"the namespace has one partition: all of it is on {locations[0].node}",
            "`durasleep move` gives it more, so that the nodes share it",
        )
    elif max(on.values()) - min(on.values()) >= _MANY_MORE:
        text = f"the nodes have unequal shares: {counts}"
        yield Diagnosis(Level.WARNING, "partitions", text, "move slots, see `durasleep partitions`")
    else:
        yield Diagnosis(Level.GOOD, "partitions", counts)
