"""An edge as a process that is killed the COUNT-th time that it comes to a point: `killed_edge.py POINT COUNT`.

before     an edge round has closed, and nothing of it is on disk
within     it is written aside and not yet forced to the disk
after      it is on disk, and the next edge round is not open
delivery   the global round is about to be delivered
pushed     it was delivered
"""

import os
import signal
import sys

from services.edge import cloud_rounds, state
from services.edge.settings import EdgeSettings
from services.rpc.process import main


class Schedule:
    """Kills this process at the chosen point."""

    def __init__(self, point, count):
        self._point, self._left = point, count

    def at(self, point):
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def set_up(schedule):
    put, fsync, push = state.EdgeState.put, os.fsync, cloud_rounds.push

    def putting(self, saved):
        schedule.at("before")
        done = put(self, saved)
        schedule.at("after")
        return done

    def syncing(opened):
        schedule.at("within")
        fsync(opened)

    def pushing(stub, header, data):
        schedule.at("delivery")
        done = push(stub, header, data)
        schedule.at("pushed")
        return done

    state.EdgeState.put, state.os.fsync, cloud_rounds.push = putting, syncing, pushing


if __name__ == "__main__":
    set_up(Schedule(sys.argv[1], int(sys.argv[2])))
    sys.exit(main("services.edge.service", EdgeSettings.load))
