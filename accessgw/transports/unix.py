"""The listener on a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.internet.defer import Deferred

from accessgw.transports.listener import SocketListener


class UnixListener(SocketListener):
    """Plain stream connections on a path of the file system.

    A socket file left behind by a process that is gone is replaced; one that somebody answers on is
    not. The file is removed at stop() if it is still ours.
    """

    _inode: tuple[int, int] | None = None

    def _listen(self) -> socket.socket:
        path = self._settings.path
        self.host, self.port = path, 0
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Nobody may connect between bind() and chmod().
            before = os.umask(0o777 & ~self._settings.mode)
            try:
                sock.bind(path)
            finally:
                os.umask(before)
            os.chmod(path, self._settings.mode)
            sock.listen(self._settings.backlog)
        except OSError:
            sock.close()
            raise
        status = os.stat(path)
        self._inode = (status.st_dev, status.st_ino)
        return sock

    def stop(self) -> Deferred[None]:
        if self._inode is not None:
            try:
                status = os.stat(self._settings.path)
            except FileNotFoundError:
                pass
            else:
                if (status.st_dev, status.st_ino) == self._inode:
                    os.unlink(self._settings.path)
            self._inode = None
        return super().stop()

    def _peer_of(self, address: Any) -> tuple[str, int]:
        return "unix", 0

    def _local_of(self, sock: socket.SocketType) -> tuple[str, int]:
        return self._settings.path, 0


def _remove_stale(path: str) -> None:
    """Remove a socket file on which nobody listens; OSError when something else is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "exists and is not a socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            # A full accept queue: somebody listens.
            pass
    raise OSError(errno.EADDRINUSE, "somebody listens on it", path)
