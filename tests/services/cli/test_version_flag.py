"""`elsa --version`."""

from services.cli.__main__ import status
from services.rpc.introduction import own_version


def test_the_version_is_the_one_that_servers_tell(capsys) -> None:
    assert status(["--version"]) == 0
    assert capsys.readouterr().out == f"elsa {own_version()}\n"
