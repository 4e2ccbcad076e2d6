"""PostgreSQL refuses to run as root: the account it runs as then, and places that this account can reach.

The mode of a parent folder is never changed. What is not reachable goes under /var/lib/opspipe.
"""

import hashlib
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

_SHARED = Path("/var/lib/opspipe")


@dataclass(frozen=True)
class Account:
    """Whom a server runs as; None: as ourselves."""

    uid: int | None
    gid: int | None

    def own(self, path: Path) -> None:
        """Give a path to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, path: Path) -> bool:
        """Tell whether the account can enter every folder on the way to `path`, and `path` itself."""
        if self.uid is None:
            return True
        return all(
            not folder.exists() or folder.stat().st_mode & stat.S_IXOTH
            for folder in (path.resolve(), *path.resolve().parents)
        )


def postgres_account(data: Path) -> Account:
    """Choose whom PostgreSQL runs as: ourselves; where we are root, whose the data are, or else `nobody`."""
    if os.geteuid() != 0:
        return Account(None, None)
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def home_of(folder: Path, account: Account) -> Path:
    """Give `folder`, or a place of its own under /var/lib/opspipe if the account cannot reach it."""
    if account.can_reach(folder):
        return folder
    return _SHARED / hashlib.sha256(str(folder).encode()).hexdigest()[:12]


def reachable_copy(package: Path, *, name: str) -> Path:
    """Copy a wheel's package and the libraries beside it to where all can read it, once a version."""
    target = _SHARED / name
    if not target.exists():
        _SHARED.mkdir(parents=True, exist_ok=True)
        half = _SHARED / f".{name}.{os.getpid()}"
        try:
            shutil.copytree(package, half / package.name, symlinks=True)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, half / libraries.name, symlinks=True)
            _open_for_reading(half)
            try:
                half.rename(target)
            except OSError:
                if not target.exists():  # otherwise somebody else was faster, with the same content
                    raise
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return target / package.name


def _open_for_reading(folder: Path) -> None:
    """A copy keeps the modes of its source, which a strict umask may have closed."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & stat.S_IXUSR else 0o444))
