"""Where logs lie: folders of this machine, and object stores (`s3://`, `gs://`, `az://`) by fsspec.

An object is copied to the disk before it is read. So every reader stays what it is, a file of any size is read in
bounded memory, and what is read is one version, however often it is opened. The readers look at first bytes and read a
file several times; each look would be a request.

What can be listed is told apart by name and version: the ETag and size of an object, the inode, size and time of a
file. No time decides what is new, so an object that comes late, or under an older name, is found like any other.
"""

import atexit
import errno
import importlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shared.errors import ConfigError, DataError, MissingDependencyError, StoreError
from shared.printable import printable

_log = logging.getLogger("data")
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# scheme -> the module that fsspec needs for it, and the extra of this project that installs it
_MODULES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure")}
# One request for an object, read a little at a time: parts side by side would lie in memory, ten of 50 MB of S3's, and
# might be of two versions.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 1}, "gs": {}, "az": {"max_concurrency": 1}}
_READING: dict[str, dict[str, Any]] = {"s3": {}, "gs": {"concurrency": 1}, "az": {}}
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified")
_LONGEST_NAME = 200  # bytes; a file system takes 255, a key of S3 may have 1,024
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Entry:
    """A file or an object, as a listing tells of it.

    Attributes:
        key: absolute path or URL.
        name: path below the folder or prefix that was listed.
        version: another one when it was written again.
        identity: the same when it was renamed: `device:inode`, or an object's ETag and size.
        size: bytes.
    """

    key: str
    name: str
    version: str
    identity: str
    size: int


class Place(Protocol):
    """A folder or a prefix, or one file or object.

    Attributes:
        root: what was named, absolute.
        remote: whether entries appear whole: an object is there when it was written to its end, a file before that.
    """

    root: str
    remote: bool

    def listed(self) -> Iterator[Entry]:
        """All that is there now, in no order; hidden files are left out, and empty objects of a prefix.

        Raises:
            DataError: there is no such folder or file.
            StoreError: the store can't be asked.
        """

    def put(self, entry: Entry, target: Path) -> None:
        """Let `target`, a path in an existing folder, be the file; it holds the newest version, not surely this one.

        Raises:
            FileNotFoundError: it is gone.
            StoreError: the store can't be asked.
        """


def is_url(path: str) -> bool:
    """Whether a path names an object store."""
    return _URL.match(path) is not None


def place_of(path: str) -> Place:
    """The place that a path or URL names; nothing is asked of it yet.

    Raises:
        ConfigError: a URL of no known kind.
        MissingDependencyError: the library for it is not installed.
    """
    return _Bucket(path) if is_url(path) else _Folder(Path(path))


class _Folder:
    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.root = str(self._path)

    def listed(self) -> Iterator[Entry]:
        if not self._path.exists():
            raise DataError(f"{self._path}: no such file or folder")
        if not self._path.is_dir():
            yield from self._entry(self._path, self._path.name)
            return
        for folder, _, files in os.walk(self._path):
            for name in files:
                path = Path(folder) / name
                yield from self._entry(path, str(path.relative_to(self._path)))

    def _entry(self, path: Path, name: str) -> Iterator[Entry]:
        try:
            status = path.stat()
        except OSError:  # gone since it was listed, or a link to nowhere
            return
        if path.is_file() and not path.name.startswith("."):
            version = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
            yield Entry(str(path), name, version, f"{status.st_dev}:{status.st_ino}", status.st_size)

    def put(self, entry: Entry, target: Path) -> None:
        if not Path(entry.key).is_file():
            raise FileNotFoundError(entry.key)
        target.symlink_to(entry.key)


class _Bucket:
    remote = True

    def __init__(self, url: str) -> None:
        match = _URL.match(url)
        scheme = match[1].lower() if match else ""
        if scheme not in _MODULES:
            raise ConfigError(
                f"{url}: expected a path of this machine, or a URL that begins with s3://, gs:// or az://"
            )
        if "@" in url.removeprefix(f"{scheme}://").partition("/")[0]:
            raise ConfigError(f"{scheme}://: a URL with a user or a password in it; leave them to the environment")
        self._scheme = scheme
        self._path = url[len(scheme) + 3 :].rstrip("/")
        if not self._path.partition("/")[0]:
            raise ConfigError(f"{url}: names no bucket; expected {scheme}://bucket/prefix")
        self.root = f"{scheme}://{self._path}"
        self._system = _system(scheme)

    def listed(self) -> Iterator[Entry]:
        try:
            # One flat listing: as few requests as there can be, since they are paid for.
            answer = self._system.find(self._path, detail=True, refresh=True)
            # Of a path that is one object adlfs gives its name alone.
            found: dict[str, dict[str, Any]] = (
                answer if isinstance(answer, dict) else {name: self._system.info(name) for name in answer}
            )
        except FileNotFoundError:
            found = {}
        except Exception as error:  # of any of three libraries and what they stand on
            raise self._refusal("can't be listed", error) from None
        if not found:
            raise DataError(f"{self.root}: no object there; expected one, or a prefix of some")
        for path in list(found):
            info = found.pop(path)
            name = path.removeprefix(self._path).lstrip("/") or path.rpartition("/")[2]
            size = int(info.get("size") or 0)
            # Empty and with a name that ends in a slash is how consoles make "folders"; adlfs takes the slash off.
            if info.get("type") != "file" or path.endswith("/") or (not size and path != self._path):
                continue
            if name.rpartition("/")[2].startswith("."):
                continue
            known = next((str(info[field]) for field in _VERSIONS if info.get(field)), "")
            key, version = f"{self._scheme}://{path}", f"{known.strip(chr(34))}:{size}"
            yield Entry(key, name, version, version if known else key, size)

    def put(self, entry: Entry, target: Path) -> None:
        try:
            key = entry.key.removeprefix(f"{self._scheme}://")
            self._system.get_file(key, str(target), **_READING[self._scheme])
        except FileNotFoundError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise StoreError(f"{entry.key}: {entry.size} bytes are more than is free in {target.parent}") from None
            raise self._refusal(f"{entry.name} can't be read", error) from None

    def _refusal(self, what: str, error: Exception) -> StoreError:
        told = printable(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        return StoreError(
            f"{self.root}: {what}: {told}; expected a store that this machine reaches, and rights to list and read it, "
            "by the environment or the profile of its own tools"
        )


def _system(scheme: str) -> Any:
    module, extra = _MODULES[scheme]
    # Else gcsfs asks Google's control service what kind of bucket each is, with other rights than listing takes.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        # On demand: each is a second to load, and installed by those who need it.
        import fsspec

        importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{scheme}:// needs {module}, which can't be imported ({error}); run: pip install -e '.[{extra}]'"
        ) from None
    for name in ("aiobotocore", "botocore", "s3fs", "gcsfs", "adlfs", "azure"):
        # They tell of every set of credentials they find, and print tracebacks of what they raise, which is told here.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS[scheme])
    except Exception as error:
        raise StoreError(
            f"{scheme}://: {printable(f'{type(error).__name__}: {error}', _LONGEST_REASON)}; expected credentials in "
            "the environment or the profile of the store's own tools"
        ) from None


def safe_name(name: str) -> Path:
    """The name of an object as a path below a folder of ours: a key may be called `../../etc/passwd`."""
    parts = [part.replace("\0", "%00") for part in name.split("/") if part not in ("", ".")]
    cut = [part.encode()[-_LONGEST_NAME:].decode(errors="ignore") for part in parts]
    return Path(*[part if part != ".." else "%2E%2E" for part in cut] or ["%2F"])


_COPIES: dict[str, Path] = {}
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
_LOCK = threading.Lock()


def local_path(path: str) -> Path:
    """The path itself or, of a URL, a folder or file of this process with a copy of all that is there.

    A URL is copied once in a process. The copies are this user's alone, and end with the process.

    Raises:
        DataError: nothing is there, or more than the disk takes.
        StoreError, ConfigError, MissingDependencyError: as in `place_of` and `Place`.
    """
    if not is_url(path):
        return Path(path)
    with _LOCK:
        if path not in _COPIES:
            _COPIES[path] = _copied(place_of(path))
        return _COPIES[path]


def forget_copies() -> None:
    """Remove what `local_path` copied; for whoever leaves without Python's own end."""
    with _LOCK:
        _COPIES.clear()
        while _FOLDERS:
            _FOLDERS.pop().cleanup()


atexit.register(forget_copies)


def _copied(place: Place) -> Path:
    entries = sorted(place.listed(), key=lambda entry: entry.key)
    folder = tempfile.TemporaryDirectory(prefix="copied-logs-")
    _FOLDERS.append(folder)
    needed, free = sum(entry.size for entry in entries), shutil.disk_usage(folder.name).free
    if needed > free:
        raise DataError(
            f"{place.root}: {needed} bytes to copy, and {free} are free in {tempfile.gettempdir()}; set TMPDIR to a "
            "larger disk, or name a narrower prefix"
        )
    root, gone = Path(folder.name) / safe_name(place.root.replace("://", "/")), 0
    for number, entry in enumerate(entries):
        target = root / safe_name(entry.name) if entry.key != place.root else root
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError:  # a store may have both `a` and `a/b`
            target = target.parent
        if target.exists():
            target = root / f"object-{number}" / safe_name(entry.name)
            target.parent.mkdir(parents=True)
        try:
            place.put(entry, target)
        except FileNotFoundError:
            gone += 1
    if gone:
        _log.warning("%s: %d of %d objects were gone when they were to be copied", place.root, gone, len(entries))
    if gone == len(entries):
        raise DataError(f"{place.root}: no object there any more; expected one, or a prefix of some")
    _log.info("%s: copied %d objects, %d bytes, for this process", place.root, len(entries) - gone, needed)
    return root
