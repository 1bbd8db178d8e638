"""What holds for every test: the catalogs and disks of fixtures_*, and no silent skipping where everything must run."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

pytest_plugins = ["fixtures_catalog", "fixtures_fs", "fixtures_s3"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With $ARCHIVER_TEST_REQUIRE a skipped test is a failed one: a missing program must not hide behind an 's'.

    But for those that need somebody's own pictures, or a build of torchvision that is not to be had for every torch.
    """
    report = yield
    optional = any(map(item.get_closest_marker, ("corpus", "open_clip"))) or hasattr(report, "wasxfail")
    if report.skipped and not optional and os.environ.get("ARCHIVER_TEST_REQUIRE"):
        report.outcome = "failed"
        report.longrepr = f"ARCHIVER_TEST_REQUIRE is set and this test was skipped: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself as a whole."""
    report = yield
    if report.skipped and os.environ.get("ARCHIVER_TEST_REQUIRE"):
        report.outcome = "failed"
        report.longrepr = f"ARCHIVER_TEST_REQUIRE is set and this module was skipped: {report.longrepr}"
    return report
