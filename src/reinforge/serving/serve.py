"""`serve`, the verb: it stands here because it needs this room, and imports run down."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reinforge.bundle.folders import bundle_folder, name_of, stated_name
from reinforge.errors import MissingExtra, ReinforgeError
from reinforge.messages import _
from reinforge.storage.files import storage_errors

if TYPE_CHECKING:
    from reinforge.bundle.bundle import Bundle
    from reinforge.bundle.network import Factory
    from reinforge.serving.limits import Limits
    from reinforge.serving.queues.address import Address
    from reinforge.serving.task import Access
    from reinforge.serving.trials import Trial

_PACKAGES = ("starlette", "uvicorn", "prometheus_client", "multipart")


@dataclass(frozen=True)
class Served:
    """Where a server listened until it was stopped, and what it served."""

    url: str
    models: tuple[str, ...]


def serve(
    bundles: Bundle | str | Path | Sequence[Bundle | str | Path] | Mapping[str, Bundle | str | Path],
    *,
    port: int = 8000,
    access: Access | None = None,
    queue: Address | None = None,
    limits: Limits | None = None,
    replicas: int = 1,
    threads: int = 1,
    use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
    signed_by: Sequence[str | Path] = (),
    trials: Mapping[str, tuple[str | Path, Trial]] | None = None,
    ready: Callable[[str], None] | None = None,
) -> Served:
    """Serve bundles over HTTP until SIGINT or SIGTERM; requests that are being answered are finished.

    `bundles`: one, several, or by the names they shall have. Folders are served by `replicas` processes, which are
    replaced where they end or hang; SIGHUP loads the folders anew. Bundles in memory, and those with `modules`, are
    served by this process itself. `signed_by`: files of public keys; folders that none of them has signed are refused,
    those that come later as well. `trials`: by a name that is
    served, another folder that is tried beside it. Port 0 takes a free one. `threads`: of each computation. With
    `queue`, requests are taken from there as well. `ready` is called with the
    URL once everything answers; by default it is printed on standard error. Raises MissingExtra without the extra
    `serve`, BundleError, or ReinforgeError where the address can't be had or the
    queue can't be reached.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "serve")
    from reinforge.serving.limits import Limits
    from reinforge.serving.listening import listen, url_of
    from reinforge.serving.task import Access
    from reinforge.serving.trials import candidate

    access, limits = access or Access(), limits or Limits()
    named = _named(bundles)
    for name in trials or {}:
        if name not in named:
            raise ReinforgeError(_("{name!r} is on trial beside a bundle that is not served").format(name=name))
    folders = {name: str(one) for name, one in named.items() if isinstance(one, Path)}
    for name, (folder, _trial) in (trials or {}).items():
        folders[candidate(name)] = str(bundle_folder(folder))
    tried = {name: trial for name, (_folder, trial) in (trials or {}).items()}
    alone = len(folders) - len(tried) < len(named) or modules is not None or sys.platform == "win32"
    if alone and tried:
        raise ReinforgeError(_("only folders are tried beside others"), where=", ".join(tried))
    if alone and replicas > 1:
        remedy = _("Write the bundle to a folder first, or leave `replicas` at 1.")
        raise ReinforgeError(_("only folders are served by several processes"), remedy=remedy)
    _check_files(access)
    if queue is not None:
        from reinforge.serving.queues.queue import check

        asyncio.run(check(queue))
    keys: tuple[str, ...] = ()
    if signed_by:
        from reinforge.bundle.signing import public_keys

        keys = public_keys(signed_by)
        if len(folders) - len(tried) < len(named):
            raise ReinforgeError(
                _("only folders have signatures"), remedy=_("Write the bundle to a folder, and sign it.")
            )
    listener = listen(access.host, port)
    url = url_of(listener, secure=access.certificate is not None)

    def announce() -> None:
        (ready or (lambda told: _announce(tuple(named), told)))(url)

    if alone:
        from reinforge.recipe.user_code import load_user_code
        from reinforge.serving.server import Server
        from reinforge.serving.trust import trusted

        load_user_code(use)
        loaded = {name: trusted(one, keys, modules) if isinstance(one, Path) else one for name, one in named.items()}
        server = Server(loaded, listener, access, limits, queue=queue, keys=keys)
        server.run(threads, lambda _url: announce())
    else:
        from reinforge.serving.supervisor import Supervisor
        from reinforge.serving.task import Task

        task = Task(folders, keys, tuple(map(str, use)), threads, replicas, access, limits, queue, tried)
        Supervisor(task, listener).run(announce)
    return Served(url, tuple(named))


def _check_files(access: Access) -> None:
    """Raise ReinforgeError or StorageError for a certificate or a log that a replica could not open either."""
    if access.certificate is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(access.certificate, access.key)
        except (OSError, ssl.SSLError) as error:
            problem = _("they are no certificate and its key: {reason}").format(reason=error.strerror or error)
            where = f"{access.certificate}, {access.key}"
            raise ReinforgeError(problem, where=where, remedy=_("Give both as PEM files.")) from None
    if access.log not in (None, "-"):
        with storage_errors(Path(access.log or "")), open(access.log or "", "a", encoding="utf-8"):
            pass


def _named(
    given: Bundle | str | Path | Sequence[Bundle | str | Path] | Mapping[str, Bundle | str | Path],
) -> dict[str, Bundle | Path]:
    """By name, bundles in memory and folders that are there."""
    if isinstance(given, Mapping):
        return {name: _found(one) for name, one in given.items()}
    named: dict[str, Bundle | Path] = {}
    for one in given if isinstance(given, Sequence) and not isinstance(given, str) else [given]:
        found = _found(one)
        own = stated_name(found) if isinstance(found, Path) else name_of(found.path, found.provenance)
        name, number = own, 2
        while name in named:
            name, number = f"{own}-{number}", number + 1
        named[name] = found
    return named


def _found(one: Bundle | str | Path) -> Bundle | Path:
    return bundle_folder(one) if isinstance(one, str | Path) else one


def _announce(names: tuple[str, ...], url: str) -> None:
    told = _("Serving {names} at {url} (predict: POST {path}). Ctrl-C stops.")
    path = f"/v1/models/{names[0]}/predict"
    print(told.format(names=", ".join(names), url=url, path=path), file=sys.stderr, flush=True)
