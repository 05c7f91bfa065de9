# SPDX-License-Identifier: Apache-2.0
"""Starts the service: two worker processes on one port and one quota store."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import subprocess
import sys

import uvicorn

from scan_service.settings import ROOT, Settings
from scan_service.supervisor import supervise

HOST = "127.0.0.1"

HINTS = """
The scan service runs on {url}. Try:

  # a scan: an Arrow stream of two columns
  curl -s {url}/api/v2/scan -H 'X-User: alice' --json '{{"table_id": "flights",
    "select": ["origin", "delay"], "where": "delay > 600", "limit": 100}}' -o scan.arrow

  # the usage, today's and that of the last week
  curl -s '{url}/api/v2/usage?days=7' -H 'X-User: alice'; echo

  # a refusal: the budget of a day is three reads of the whole table
  for i in 1 2 3 4; do curl -s {url}/api/query -H 'X-User: alice' --json '{{"sql":
    "SELECT * FROM flights ORDER BY delay DESC LIMIT 1"}}'; echo; done

Ctrl-C ends it.
"""


def listening(port: int, unread_seconds: float) -> socket.socket:
    """The socket that the workers inherit. The kernel ends connections whose
    client has taken nothing of what was sent for so long; a worker's close would
    wait for it for ever."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_seconds * 1000))
    try:
        listener.bind((HOST, port))
        listener.listen(2048)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(
            f"scan_service: port {port} is taken: end what listens there, or choose another "
            "with --port or SCAN_SERVICE_PORT"
        )
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(prog="scan_service", description=__doc__)
    default = int(os.environ.get("SCAN_SERVICE_PORT") or 8000)
    parser.add_argument("--port", type=int, default=default, help="default: 8000; 0: any free one")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (2)")
    arguments = parser.parse_args()

    settings = Settings()
    listener = listening(arguments.port, settings.max_seconds)
    fetch = subprocess.run([sys.executable, ROOT / "tools" / "fetch_flights"], check=False)
    if fetch.returncode:
        sys.exit(fetch.returncode)
    store = settings.get_value("api", "scan", "quota_store")
    if store and store != "memory:":
        # quotalite makes the last component only.
        os.makedirs(os.path.dirname(store), exist_ok=True)
    print(HINTS.format(url=f"http://{HOST}:{listener.getsockname()[1]}"), flush=True)

    def serve() -> None:
        config = uvicorn.Config(
            "scan_service.app:app", log_level="warning", timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run(sockets=[listener])

    sys.exit(supervise(arguments.workers, serve))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        # While the data was fetched.
        sys.exit(130)
