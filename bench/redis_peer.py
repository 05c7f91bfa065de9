# SPDX-License-Identifier: Apache-2.0
"""Redis with appendfsync always, as a peer of durable charges, where it is installed."""

import shutil
import socket
import subprocess
import tempfile

CALLERS = {1: 3000, 64: 200000}  # how many commands each


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(port, callers, count):
    """INCRBY over 1,000 keys; the rate that redis-benchmark reports."""
    command = [
        "redis-benchmark",
        "-p",
        str(port),
        "-c",
        str(callers),
        "-n",
        str(count),
        "-r",
        "1000",
    ]
    command += ["--csv", "INCRBY", "user:__rand_int__", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1].split('","')[1])


def redis_rows(base):
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        return {}
    port = free_port()
    with tempfile.TemporaryDirectory(dir=base) as directory:
        server = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
            + ["--save", "", "--appendonly", "yes", "--appendfsync", "always"],
            stdout=subprocess.DEVNULL,
        )
        try:
            ping = ["redis-cli", "-p", str(port), "ping"]
            while subprocess.run(ping, capture_output=True).returncode != 0:
                if server.poll() is not None:
                    return {}
            return {
                f"redis_{callers}": {"per_second": measure(port, callers, count)}
                for callers, count in CALLERS.items()
            }
        finally:
            server.terminate()
            server.wait()
