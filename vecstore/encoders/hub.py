"""Weights from a hub: from the cache if they are there, announced if they are fetched, one clear error if neither.

Nothing here is called unless the user named a hub model. Libraries retry for minutes where there is no way out (a
hospital's firewall drops packets silently), so a connection is tried first, for less than a second.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from vecstore.errors import EncoderError, WeightsMissing
from vecstore.files import HashingFile, offline, os_errors

PROBE_S = 0.7
"""Seconds within which a hub must take a connection, name resolution included."""
_STALL_S = 30
_BLOCK = 1 << 20


def from_url(url: str, folder: Path, what: str) -> Path:
    """A file of a web server, kept under its own name.

    Parameters
    ----------
    url : str
        If its name ends in "-" and 8 or more hexadecimal digits, its SHA-256 must begin with them.
    folder : Path
        Where it is kept.
    what : str
        The encoder, for messages.

    Raises
    ------
    WeightsMissing
        It is not in `folder`, and must not or can't be fetched.
    """
    path = folder / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    _check_reach(url, url, str(folder), what)
    try:
        with urllib.request.urlopen(url, timeout=_STALL_S) as answer:
            _announce(what, url, str(folder), answer.headers.get("Content-Length"))
            with os_errors(str(folder)):
                folder.mkdir(parents=True, exist_ok=True)
                digest = _download(answer, path)
    except OSError as error:
        _missing(what, f"fetching it failed ({error})", url, str(folder), error)
    named = re.search(r"-([0-9a-f]{8,})\.\w+$", path.name)
    if named and not digest.startswith(named[1]):
        path.unlink()
        raise EncoderError(
            f"{url} has the SHA-256 {digest[:12]}", expected=named[1], do="try again; a proxy may have changed it"
        )
    return path


def _download(answer: object, path: Path) -> str:
    file = HashingFile(path.parent)
    try:
        while block := answer.read(_BLOCK):  # type: ignore[attr-defined]
            file.write(block)
        file.publish(path)
    except BaseException:
        file.discard()
        raise
    return file.sha256.hexdigest()


def torch_checkpoints() -> Path:
    """Where torch keeps fetched weights (TORCH_HOME, XDG_CACHE_HOME)."""
    home = os.environ.get("TORCH_HOME")
    return (Path(home) if home else _cache() / "torch") / "hub" / "checkpoints"


def hugging_face_cache() -> Path:
    """Where models of the Hugging Face hub are kept (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else _cache() / "huggingface") / "hub"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def from_hugging_face(repo: str, filenames: Sequence[str], revision: str | None, what: str, flag: bool = True) -> Path:
    """The first of several files that a model of the Hugging Face hub has.

    Parameters
    ----------
    repo : str
        "ORG/REPO".
    filenames : sequence of str
        In order of preference.
    revision : str or None
        Branch, tag or commit.
    what : str
        The encoder, for messages.
    flag : bool
        Whether `--weights FILE` would do instead.

    Raises
    ------
    WeightsMissing
        None is in the cache, and none must or can be fetched.
    """
    from huggingface_hub import try_to_load_from_cache

    cache = hugging_face_cache()
    for filename in filenames:
        known = try_to_load_from_cache(repo, filename, cache_dir=cache, revision=revision)
        if isinstance(known, str):
            return Path(known)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    wanted = f"{' or '.join(filenames)} of {endpoint}/{repo}" + (f" at {revision}" if revision else "")
    _check_reach(endpoint, wanted, str(cache), what, flag)
    return _fetch_from_hugging_face(endpoint, repo, filenames, revision, what, wanted, flag)


def _fetch_from_hugging_face(
    endpoint: str, repo: str, filenames: Sequence[str], revision: str | None, what: str, wanted: str, flag: bool
) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    cache = hugging_face_cache()
    for filename in filenames:
        url = hf_hub_url(repo, filename, revision=revision, endpoint=endpoint)
        try:
            _announce(what, url, str(cache), get_hf_file_metadata(url).size)
            return Path(hf_hub_download(repo, filename, revision=revision, cache_dir=cache, endpoint=endpoint))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the client's errors have no common base: HTTP, retries, locks, disks
            _missing(
                what, f"fetching it failed ({str(error).strip().splitlines()[0]})", wanted, str(cache), error, flag
            )
    return _missing(what, "the hub has no such file", wanted, str(cache), None, flag)


def _check_reach(url: str, wanted: str, where: str, what: str, flag: bool = True) -> None:
    if offline():
        _missing(what, "VECSTORE_OFFLINE or HF_HUB_OFFLINE forbids to fetch it", wanted, where, None, flag)
    host, reason = _unreachable(url)
    if reason:
        _missing(what, f"{host} can't be reached ({reason})", wanted, where, None, flag)


def _missing(
    what: str, why: str, wanted: str, where: str, cause: BaseException | None = None, flag: bool = True
) -> NoReturn:
    instead = "fetch it on another machine and give it with --weights FILE" if flag else "fetch the folder elsewhere"
    raise WeightsMissing(
        f"the weights of {what} are not on this machine, and {why}",
        expected=f"{wanted} in {where}",
        do=instead if flag else f"{instead} and give it as local-dir:PATH",
    ) from cause


def _announce(what: str, url: str, where: str, size_bytes: int | str | None) -> None:
    size = f", {int(size_bytes) / 1e6:.0f} MB" if size_bytes else ""
    print(f"{what}: fetching {url}{size}, to {where}", file=sys.stderr, flush=True)


def _unreachable(url: str) -> tuple[str, str]:
    """Host and reason, the reason empty if it (or the proxy on the way) takes connections.

    In a thread of its own: name resolution has no time limit.
    """
    host, port = _first_hop(url)
    reason = [f"no answer within {PROBE_S} s"]

    def probe() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_S).close()
            reason[0] = ""
        except OSError as error:
            reason[0] = error.strerror or str(error)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return host, reason[0]


def _first_hop(url: str) -> tuple[str, int]:
    """Where a request for `url` connects to: its host, or the proxy that the environment names for it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(host):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = parts.hostname or ""
    return host, parts.port or (443 if parts.scheme == "https" else 80)
