"""One compose project for all tests of containers, always taken down again; logs are shown with a failure."""

import os

import pytest
from containers import Testbed


@pytest.fixture(scope="session")
def testbed(tmp_path_factory):
    """The project; its images are built, and nothing runs yet."""
    project = Testbed(f"elsa-test-{os.getpid()}", tmp_path_factory.mktemp("specs"))
    try:
        project.compose("build", timeout_s=900)
        yield project
    finally:
        project.down()


@pytest.fixture
def followed(testbed):
    """`followed(spec)`: a run that is submitted, and followed no longer than the test."""
    runs = []

    def submit(spec):
        runs.append(testbed.submit(spec))
        return runs[-1]

    yield submit
    for run in runs:
        run.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What containers said last goes beside a failure."""
    report = yield
    project = getattr(item, "funcargs", {}).get("testbed")
    if report.failed and project is not None:
        report.sections.append(("containers", project.docker("ps", "-a").stdout + project.logs(tail="60")))
    return report
