"""The socket that a server listens on, free of torch."""

from __future__ import annotations

import socket

from reinforge.errors import ReinforgeError
from reinforge.messages import _

_BACKLOG, _SILENT_SECONDS = 2048, 60


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections wait at from now on; port 0 takes a free one. Raises ReinforgeError."""
    where = f"{host}:{port}"
    try:
        family, kind, _protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Without this, small answers wait for the client's delayed acknowledgement.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # A client that takes nothing any more, or is gone without a word, is given up in the end.
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _SILENT_SECONDS)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except (socket.gaierror, UnicodeError):
        remedy = _("Give --host an address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for the network.")
        raise ReinforgeError(_("there is no such host"), where=where, remedy=remedy) from None
    except (OSError, OverflowError) as error:
        problem = _("can't listen there: {reason}").format(reason=getattr(error, "strerror", None) or error)
        raise ReinforgeError(problem, where=where, remedy=_("Choose another --port; 0 takes a free one.")) from None
    return bound


def url_of(bound: socket.socket, *, secure: bool = False) -> str:
    """The URL of a socket that listens."""
    host, port = bound.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
