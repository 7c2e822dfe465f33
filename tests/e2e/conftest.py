"""Fixtures for tests on Kubernetes. See `cluster.py` for what a test may call."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.box import bare, why_no_control_plane, why_not
from tests.e2e.cluster import Cluster, a_cluster
from tests.e2e.installation import Installation, install
from tests.e2e.mail_array import MailArray
from tests.e2e.mx_mail import publish

SECONDS = 600  # a test's own time; the first build of a box does not count

_DUMPS = pytest.StashKey[Cluster]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS, func_only=True))
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of three nodes: KUBECONFIG's, a running box, or a box for as long as the tests run."""
    if not os.environ.get("KUBECONFIG") and (reason := why_not()):
        pytest.skip(reason)
    with a_cluster() as found:
        request.config.stash[_DUMPS] = found
        yield found


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """An API server and a controller manager without nodes, on loopback; nobody reports a pod, tests may."""
    if reason := why_no_control_plane():
        pytest.skip(reason)
    with bare() as plane:
        yield Cluster(plane.environment())


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Iterator[Installation]:
    """The chart and the example's MailCluster, Ready; tests leave it with three servers that serve."""
    with install(cluster) as found:
        yield found


@pytest.fixture(scope="module")
def published(installation: Installation) -> MailArray:
    """The array with its MX records and addresses in DNS; tests leave it with three servers in service."""
    assert installation.array.cluster.box  # another cluster's DNS is not ours
    publish(installation.array)
    return installation.array


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    failed = report.when == "call" and report.failed
    if failed and "cluster" in getattr(item, "fixturenames", ()) and _DUMPS in item.config.stash:
        report.sections.append(("the cluster", item.config.stash[_DUMPS].dump()))
    return report
