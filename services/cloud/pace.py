"""How often nodes are heard.

The larger the fleet, the longer each node waits between its heartbeats, so that those of all do not take the cloud.
"""

from dataclasses import dataclass

BEATS_TO_LIVE = 3
SLACK_S = 1.0
"""A node counts as alive for as many of its heartbeats, and so much more."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Heartbeats of a fleet.

    Args:
        shortest_s: between two of a node, however small the fleet.
        most_per_s: of all nodes together, as far as `gone_after_s` lets them wait.
        gone_after_s: silence after which nobody waits for a node, and it counts as alive no longer, however large the
            fleet.
    """

    shortest_s: float
    most_per_s: float
    gone_after_s: float

    def heartbeat_s(self, nodes: int) -> float:
        """Seconds between the heartbeats of one of so many nodes."""
        longest_s = (self.gone_after_s - SLACK_S) / BEATS_TO_LIVE
        return max(self.shortest_s, min(nodes / self.most_per_s, longest_s))

    def alive_s(self, nodes: int) -> float:
        """Seconds of silence after which one of so many nodes no longer counts as alive."""
        return BEATS_TO_LIVE * self.heartbeat_s(nodes) + SLACK_S
