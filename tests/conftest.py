"""What every test folder shares."""

import asyncio

# On Python 3.11 pytest-asyncio leaves the default loop of the main thread unclosed when sync and
# async tests are mixed, and warnings are errors here.
asyncio.set_event_loop(None)
