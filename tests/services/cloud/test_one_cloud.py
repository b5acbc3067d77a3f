"""One cloud at a time works on a SQLite database, and one that died leaves it to the next."""

import os
import signal

import pytest
from test_cloud_process import process

from elsa.errors import InputError
from services.cloud.store import Store


def test_a_second_cloud_is_refused_with_who_holds_it_until_the_first_one_ends(tmp_path):
    url = f"sqlite:///{tmp_path / 'elsa.db'}"
    first = Store(url)
    with pytest.raises(InputError, match=rf"another cloud, process {os.getpid()} of this machine, works on this"):
        Store(url)
    first.close()
    Store(url).close()


def test_a_cloud_that_was_killed_holds_nothing(tmp_path):
    with process(tmp_path) as (cloud, _):
        with pytest.raises(InputError, match=f"process {cloud.pid} of this machine"):
            Store(f"sqlite:///{tmp_path / 'cloud' / 'elsa.db'}")
        cloud.send_signal(signal.SIGKILL)
        cloud.wait()
        Store(f"sqlite:///{tmp_path / 'cloud' / 'elsa.db'}").close()


def test_other_databases_than_those_two_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither sqlite nor postgresql"):
        Store("mysql+pymysql://nobody@127.0.0.1/elsa")


def test_databases_in_memory_are_each_their_own():
    first, second = Store("sqlite://"), Store("sqlite://")
    first.close()
    second.close()
