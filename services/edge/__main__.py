"""`python -m services.edge`: as `elsa edge`, with settings from the environment alone."""

import sys

from services.edge.settings import EdgeSettings
from services.rpc.process import main

if __name__ == "__main__":
    sys.exit(main("services.edge.service", EdgeSettings.load))
