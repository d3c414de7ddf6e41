"""`mlxk serve` whose event loop gets stuck for good as soon as the file $STUCK_WHEN exists; then it makes the
file $STUCK_WHEN.now. A program of the tests: the product has no such switch.

The watchdog's margins are shortened to $STUCK_MARGIN_S, as nobody wants to wait for the real ones.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from mlxk.__main__ import main
from mlxk.api import app
from mlxk.supervisor import shutdown

create_server = app.create_server


def create_server_that_gets_stuck(service: Any, settings: Any) -> Any:
    server = create_server(service, settings)
    start = server.start

    async def start_and_get_stuck(sock: Any) -> None:
        await start(sock)
        asyncio.get_running_loop().call_soon(get_stuck)

    server.start = start_and_get_stuck
    return server


def get_stuck() -> None:
    when = Path(os.environ["STUCK_WHEN"])
    if not when.exists():
        asyncio.get_running_loop().call_later(0.01, get_stuck)
        return
    Path(f"{when}.now").touch()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    app.create_server = create_server_that_gets_stuck
    shutdown.WATCHDOG_MARGIN_S = float(os.environ["STUCK_MARGIN_S"])
    shutdown.HTTP_CLOSE_S = 0.0
    main()
