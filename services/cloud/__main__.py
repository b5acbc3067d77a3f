"""`python -m services.cloud`: the cloud, configured by environment variables that begin with ELSA_."""

import sys

from elsa.errors import ElsaError
from services.cloud.service import run
from services.cloud.settings import CloudSettings
from services.rpc.process import set_up_logging


def main() -> int:
    """Serve until told to stop; the exit status, 2 for settings that cannot be used."""
    set_up_logging()
    try:
        run(CloudSettings.load())
    except ElsaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
