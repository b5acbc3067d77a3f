"""`python -m services.client`: a client with settings from the environment; `elsa client` has flags too."""

import sys

from elsa.errors import ElsaError, InputError
from services.client.service import run
from services.client.settings import ClientSettings
from services.rpc.process import set_up_logging


def main() -> int:
    """Work until told to stop; the exit status, 2 for what its owner can set right, 1 for any other end."""
    set_up_logging()
    try:
        run(ClientSettings.load())
    except ElsaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
