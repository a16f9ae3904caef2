"""What every test folder shares."""

import asyncio

import pytest
import structlog
from support import examples

#: No test is ended earlier, in seconds. Its end says that it hangs, never that it is slow.
LEAST_TIMEOUT_S = 300

examples.configure()

# structlog's own default shows the values of all variables of a traceback, which takes seconds.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(),
    ]
)

# On Python 3.11 pytest-asyncio leaves the default loop of the main thread unclosed when sync and
# async tests are mixed, and warnings are errors here.
asyncio.set_event_loop(None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that name a timeout of their own have time on a machine that is busy."""
    for item in items:
        marker = item.get_closest_marker("timeout")
        if marker is not None and marker.args and marker.args[0] < LEAST_TIMEOUT_S:
            item.add_marker(pytest.mark.timeout(LEAST_TIMEOUT_S), append=False)
