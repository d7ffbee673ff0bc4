"""CURVE keys of hosts and boards: making them, keeping them in files, setting them on a socket.

A key pair is two files in the format of CZMQ and pyzmq. `NAME.key` is public and may be shown to
anyone; `NAME.key_secret` may be read by its owner only.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from ramnas_models.errors import DataError, FileError
from ramnas_models.files import CANNOT_LINK, flush, make_folder, write_file, writing

log = logging.getLogger(__name__)
PUBLIC, SECRET = ".key", ".key_secret"
LOOK_S = 1.0  # after this a folder of keys is read again, even if no file came or went
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keys(NamedTuple):
    """A CURVE key pair; each key is 40 characters of Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:  # the secret stays out of logs and tracebacks
        return f"Keys({self.public.decode()})"


def new(folder: Path, name: str) -> Path:
    """Make `NAME.key` and `NAME.key_secret` (mode 0600) in `folder`; return the secret one's path.

    An existing secret is never replaced. If only its public file is missing, that is written again;
    otherwise FileError is raised, as on a file system where others could read the secret.
    """
    path = _make_folder(folder) / f"{checked_name(name)}{SECRET}"
    public, secret = zmq.curve_keypair()
    try:
        _write_secret(path, _text(public, secret))
    except FileError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        if path.with_suffix(PUBLIC).exists():
            raise FileError(
                f"{path} exists, and hosts or boards may know its owner by this key: remove it if "
                "it is not needed, or give the new keys another --name"
            ) from error
        public = load_keys(path).public
    if _open_to_others(path):
        path.unlink()
        raise FileError(
            f"cannot keep {path} secret: this file system lets others read every file; name "
            "another --folder"
        )
    write_file(path.with_suffix(PUBLIC), _text(public))
    return path


def load_keys(path: Path) -> Keys:
    """Read both keys from a `.key_secret` file; FileError if others than its owner can read it."""
    public, secret = _load(path)
    if secret is None:
        raise FileError(f"{path} has no secret key; give the {SECRET} file that belongs to it")
    mode = _open_to_others(path)
    if mode:
        raise FileError(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    return Keys(public, secret)


def load_public(path: Path) -> bytes:
    """Read the public key (Z85), which both files hold; FileError if there is none."""
    return _load(path)[0]


def authorize(public: Path, authorized: Path, name: Optional[str] = None) -> Path:
    """Copy the public key in the file `public` into the folder `authorized`, as NAME.key.

    Returns the new file's path. `name` is by default that of the file. Hosts let in whoever has a
    key in that folder.
    """
    file, text = checked_name(public.stem if name is None else name), _text(load_public(public))
    path = _make_folder(authorized) / f"{file}{PUBLIC}"
    write_file(path, text)
    return path


def load_authorized(authorized: Path) -> Tuple[Dict[bytes, str], List[str]]:
    """Read every `.key` file in a folder: public key -> name, and a message for each fault.

    A fault is a file without a key, or a folder that everybody may write into. A folder that does
    not exist has no keys. OSError if there is one that cannot be listed.
    """
    known, wrong = {}, []
    if authorized.is_dir() and authorized.stat().st_mode & stat.S_IWOTH:
        wrong.append(
            f"every user of this machine can add keys to {authorized}: chmod o-w {authorized}"
        )
    # not `glob`, which from Python 3.13 on takes a folder that cannot be listed for an empty one
    files = sorted(authorized.iterdir()) if authorized.is_dir() else []
    for path in (file for file in files if file.suffix == PUBLIC):
        try:
            known[load_public(path)] = path.stem
        except FileError as error:
            wrong.append(str(error))
    return known, wrong


class Authorized:
    """The public keys in a folder, as it is now. Any thread may ask for one.

    The folder is read again as soon as a file has come or gone, which its time of change shows.
    That time does not show that a file was written over, so it is read again after LOOK_S as well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock = folder, threading.Lock()
        self._changed_ns, self._due_s = -1, float("-inf")
        self._known: Dict[bytes, str] = {}
        self._wrong: List[str] = []

    def name_of(self, public: bytes) -> Optional[str]:
        """The name of the file with this key; None if there is none."""
        with self._lock:
            try:
                changed_ns = os.stat(self.folder).st_mtime_ns
            except OSError:
                changed_ns = 0
            if changed_ns != self._changed_ns or time.monotonic() >= self._due_s:
                self._changed_ns = changed_ns  # what comes while it is read shows the next time
                self._read()
            return self._known.get(public)

    def _read(self) -> None:
        self._due_s, before = time.monotonic() + LOOK_S, (self._known, self._wrong)
        try:
            self._known, self._wrong = load_authorized(self.folder)
        except OSError as error:
            self._wrong = [f"cannot look into {self.folder}: {error.strerror}"]
        if (self._known, self._wrong) != before:
            log.info("%d keys are authorised in %s", len(self._known), self.folder)
            for reason in self._wrong:
                log.warning("%s", reason)


def client_options(socket: zmq.Socket[Any], own: Keys, server_public: bytes) -> None:
    """Make `socket` speak CURVE to the host with `server_public`; call this before it connects."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_public)


def server_options(socket: zmq.Socket[Any], own: Keys) -> None:
    """Make `socket` accept CURVE connections only; call this before it binds."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)


def is_public(endpoint: str) -> bool:
    """Whether other machines can reach or overhear `endpoint`: all but ipc, inproc and loopback."""
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return False
    host = address.split(";")[-1].rpartition(":")[0].strip("[]")  # tcp://SOURCE;HOST:PORT
    try:
        ip = ipaddress.ip_address(host)
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return not (mapped or ip).is_loopback  # ::ffff:127.0.0.1 is the loopback of IPv4
    except ValueError:
        return host not in ("localhost", "lo")  # any other host name or network interface is public


def checked_name(name: str) -> str:
    """Return `name`; DataError if it cannot be the name of a key file and of a board."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"'{name}' cannot be the name of a key: use up to 64 letters, digits and . _ -, and "
            "begin with a letter or a digit"
        )
    return name


def _load(path: Path) -> Tuple[bytes, Optional[bytes]]:
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and (len(key) != 40 or len(z85.decode(key)) != 32):
                raise ValueError("a key must have 40 characters of Z85")
    except OSError as error:
        hint = "`ramnas keys new` makes one" if not path.exists() else error.strerror
        raise FileError(f"cannot read the key {path}: {hint}") from error
    except (ValueError, KeyError, IndexError) as error:  # what load_certificate and z85 raise
        raise FileError(
            f"{path} is not a key file of ramnas or ZeroMQ: {error}; `ramnas keys new` makes one"
        ) from error
    return public, secret


def _text(public: bytes, secret: Optional[bytes] = None) -> bytes:
    lines = [b"curve", b'    public-key = "' + public + b'"']
    if secret is not None:
        lines += [b'    secret-key = "' + secret + b'"']
    return b"\n".join([*lines, b""])


def _make_folder(path: Path) -> Path:
    """Like `make_folder`, but a new folder is for its owner only, whatever the umask."""
    make_folder(path.parent)
    with writing(path):
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def _open_to_others(path: Path) -> int:
    """The mode of a file that others than its owner can read or write, or else 0."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o077 else 0


def _write_secret(path: Path, data: bytes) -> None:
    """Write a secret: whole or not at all, with mode 0600 from the start, never over another."""
    with writing(path):
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                flush(file.fileno())
            _name(aside, path)
        finally:
            with contextlib.suppress(OSError):  # after a rename it is not there any more
                os.unlink(aside)


def _name(aside: str, path: Path) -> None:
    """Give the file `aside` its name; FileExistsError if there is a file of that name."""
    try:
        os.link(aside, path)  # unlike a rename, this fails if the file exists
    except FileExistsError:
        raise
    except OSError as error:  # FAT and many network file systems have no links
        if error.errno not in CANNOT_LINK:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "") from error
        os.rename(aside, path)
