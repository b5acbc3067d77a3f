"""`python -m services.client`: a client with settings from the environment; `elsa client` has flags too."""

from services.client.service import run
from services.client.settings import ClientSettings
from services.rpc.process import set_up_logging

if __name__ == "__main__":
    set_up_logging()
    run(ClientSettings())
