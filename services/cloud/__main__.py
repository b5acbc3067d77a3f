"""`python -m services.cloud`: as `elsa cloud`, with settings from the environment alone."""

import sys

from services.cloud.settings import CloudSettings
from services.rpc.process import main

if __name__ == "__main__":
    sys.exit(main("services.cloud.service", CloudSettings.load))
