"""`python -m services.client`: as `elsa client`, with settings from the environment alone."""

import sys

from services.client.settings import ClientSettings
from services.rpc.process import main

if __name__ == "__main__":
    sys.exit(main("services.client.service", ClientSettings.load))
