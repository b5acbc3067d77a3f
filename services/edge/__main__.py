"""`python -m services.edge`: an edge with settings from the environment; `elsa edge` has flags too."""

from services.edge.service import run
from services.edge.settings import EdgeSettings
from services.rpc.process import set_up_logging

if __name__ == "__main__":
    set_up_logging()
    run(EdgeSettings())
