"""The CURVE keys of a host or a board: made, kept in files, and put on a ZeroMQ socket.

A key pair is two files in the format of CZMQ and pyzmq: `NAME.key`, which may be shown to anyone,
and `NAME.key_secret`, which only its owner may read.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from ramnas_models.errors import DataError, FileError
from ramnas_models.files import make_folder, write_file, writing

PUBLIC, SECRET = ".key", ".key_secret"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keys(NamedTuple):
    """A CURVE key pair, each 40 characters of Z85."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:  # the secret stays out of logs and tracebacks
        return f"Keys({self.public.decode()})"


def home() -> Path:
    """Where keys are kept when nothing else is said: ramnas in $XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ramnas"


def new(folder: Path, name: str) -> Path:
    """Make `NAME.key` and `NAME.key_secret` (0600) in `folder`; the path of the secret one.

    A secret that is there is never replaced: FileError. Its lost public half is written again.
    """
    path = make_folder(folder) / f"{checked_name(name)}{SECRET}"
    public, secret = zmq.curve_keypair()
    try:
        _write_secret(path, _text(public, secret))
    except FileError as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        if path.with_suffix(PUBLIC).exists():
            raise FileError(
                f"{path} exists, and who has its key authorised knows it by that; remove it, or "
                "give the new keys another --name"
            ) from error
        public = load_keys(path).public
    write_file(path.with_suffix(PUBLIC), _text(public))
    return path


def load_keys(path: Path) -> Keys:
    """Both halves from a `.key_secret`; FileError unless its owner alone can read it."""
    public, secret = _load(path)
    if secret is None:
        raise FileError(f"{path} has no secret key; give the {SECRET} file that lies beside it")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise FileError(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
    return Keys(public, secret)


def load_public(path: Path) -> bytes:
    """The public key, Z85, from either file; FileError if there is none."""
    return _load(path)[0]


def authorize(public: Path, authorized: Path, name: Optional[str] = None) -> Path:
    """Put the public key of that file into the folder of those who may connect; its file there."""
    path = authorized / f"{checked_name(public.stem if name is None else name)}{PUBLIC}"
    write_file(path, _text(load_public(public)))
    return path


def load_authorized(authorized: Path) -> Tuple[Dict[bytes, str], List[str]]:
    """Public key -> name, of every `.key` in the folder; and what is wrong with the others."""
    known, wrong = {}, []
    for path in sorted(authorized.glob(f"*{PUBLIC}")):
        try:
            known[load_public(path)] = path.stem
        except FileError as error:
            wrong.append(str(error))
    return known, wrong


def client_options(socket: zmq.Socket[Any], own: Keys, server_public: bytes) -> None:
    """Have `socket` speak CURVE to the host with that public key; before it connects."""
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_public)


def server_options(socket: zmq.Socket[Any], own: Keys) -> None:
    """Have `socket` take CURVE and nothing else; before it binds."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret)


def is_public(endpoint: str) -> bool:
    """True where others than this machine may listen in: all but ipc, inproc and loopback."""
    transport, _, address = endpoint.partition("://")
    if transport in ("ipc", "inproc"):
        return False
    host = address.split(";")[-1].rpartition(":")[0].strip("[]")  # tcp://SOURCE;HOST:PORT
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in ("localhost", "lo")  # else a name or an interface


def checked_name(name: str) -> str:
    """`name` if it can be that of a file and of a board; else DataError."""
    if not _NAME.fullmatch(name):
        raise DataError(f"'{name}' is no name of a key: use letters, digits, and . _ - inside")
    return name


def _load(path: Path) -> Tuple[bytes, Optional[bytes]]:
    try:
        public, secret = load_certificate(path)
        for key in (public, secret):
            if key is not None and (len(key) != 40 or len(z85.decode(key)) != 32):
                raise ValueError("a key is 40 characters of Z85")
    except OSError as error:
        hint = "`ramnas keys new` makes one" if not path.exists() else error.strerror
        raise FileError(f"cannot read the key {path}: {hint}") from error
    except (ValueError, KeyError, IndexError) as error:  # what load_certificate and z85 raise
        raise FileError(
            f"{path} is no key file of ramnas or ZeroMQ: {error}; `ramnas keys new` makes one"
        ) from error
    return public, secret


def _text(public: bytes, secret: Optional[bytes] = None) -> bytes:
    lines = [b"curve", b'    public-key = "' + public + b'"']
    if secret is not None:
        lines += [b'    secret-key = "' + secret + b'"']
    return b"\n".join([*lines, b""])


def _write_secret(path: Path, data: bytes) -> None:
    """Whole or not at all, 0600 from its first byte on, and never over another one."""
    with writing(path):
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(aside, path)  # fails if there is one
        finally:
            os.unlink(aside)
