"""Hubs: the cache first, nothing unasked, and one clear error at once."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vecstore.encoders import open_encoder
from vecstore.encoders.hub import _first_hop, _unreachable, from_hugging_face, from_url
from vecstore.errors import EncoderError, WeightsMissing

NAMES = [
    ("torchvision:resnet50/IMAGENET1K_V2", "https://download.pytorch.org/models/resnet50-11ad3fa6.pth", "torch/hub"),
    ("open_clip:ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "hf/hub"),
    ("open_clip:hf-hub:some/model", "open_clip_config.json of https://huggingface.co/some/model", "hf/hub"),
    (
        "timm:resnet18.a1_in1k",
        "model.safetensors or pytorch_model.bin of https://huggingface.co/timm/resnet18",
        "hf/hub",
    ),
    ("timm:hf-hub:some/model@v2", "config.json of https://huggingface.co/some/model at v2", "hf/hub"),
]


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "VECSTORE_OFFLINE", "https_proxy", "HTTPS_PROXY",
                 "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.parametrize(("name", "wanted", "where"), NAMES)
def test_an_unreachable_hub_is_one_clear_error_within_a_second(
    name: str, wanted: str, where: str, closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port}")  # so that it holds where there is a way out
    with pytest.raises(WeightsMissing):
        open_encoder(name)  # imports of libraries are not counted
    begun = time.monotonic()
    with pytest.raises(WeightsMissing, match=r"are not on this machine, and 127.0.0.1 can't be reached") as caught:
        open_encoder(name)
    assert time.monotonic() - begun < 1
    assert wanted in str(caught.value)
    assert str(tmp_path / where) in str(caught.value)
    assert "--weights FILE" in str(caught.value) or "local-dir:PATH" in str(caught.value)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "VECSTORE_OFFLINE"])
@pytest.mark.parametrize("name", [name for name, _, _ in NAMES])
def test_offline_forbids_even_to_try(name: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(WeightsMissing, match="VECSTORE_OFFLINE or HF_HUB_OFFLINE forbids to fetch it"):
        open_encoder(name)


def test_a_host_that_swallows_packets_costs_less_than_a_second() -> None:
    begun = time.monotonic()
    host, reason = _unreachable("https://192.0.2.1/x")  # reserved for documentation: no such host
    assert (host, bool(reason)) == ("192.0.2.1", True)
    assert time.monotonic() - begun < 1


def test_the_proxy_of_the_environment_is_what_must_be_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _first_hop("https://hub.example/x") == ("hub.example", 443)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert _first_hop("https://hub.example/x") == ("proxy.example", 3128)
    monkeypatch.setenv("no_proxy", "hub.example")
    assert _first_hop("https://hub.example:8443/x") == ("hub.example", 8443)


CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as its clients need."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        found = "missing" not in self.path and not self.path.endswith(".safetensors")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "0123456789012345678901234567890123456789")
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body and found:
            self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""


@pytest.fixture
def hub() -> Iterator[str]:
    """A web server on this machine."""
    _Hub.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_is_announced_fetched_once_and_then_taken_from_the_cache(
    hub: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{hub}/net-{SHA256[:8]}.pth"
    path = from_url(url, tmp_path / "deep" / "cache", "torchvision:net")
    assert path.read_bytes() == CONTENT
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"torchvision:net: fetching {url}, 0 MB, to {tmp_path}/deep/cache\n"
    asked = list(_Hub.asked)
    assert from_url(url, tmp_path / "deep" / "cache", "torchvision:net") == path
    assert asked == _Hub.asked == [f"GET /net-{SHA256[:8]}.pth"]


def test_a_file_with_another_hash_than_its_name_says_is_not_kept(hub: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="expected deadbeef"):
        from_url(f"{hub}/net-deadbeef.pth", tmp_path, "torchvision:net")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_refuses_is_weights_missing(hub: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"fetching it failed .*404"):
        from_url(f"{hub}/missing.pth", tmp_path, "torchvision:net")


def test_a_model_of_the_hugging_face_hub_comes_by_the_first_name_it_has(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    names = ["model.safetensors", "pytorch_model.bin"]
    path = from_hugging_face("org/net", names, None, "timm:net")
    assert path.name == "pytorch_model.bin"
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hf" / "hub")
    assert f"timm:net: fetching {hub}/org/net/resolve/main/pytorch_model.bin, 0 MB, to" in capsys.readouterr().err
    asked = len(_Hub.asked)
    monkeypatch.setenv("VECSTORE_OFFLINE", "1")
    assert from_hugging_face("org/net", names, None, "timm:net") == path
    assert len(_Hub.asked) == asked


def test_a_model_without_any_of_the_files_says_so(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    with pytest.raises(WeightsMissing, match=r"the hub has no such file; expected missing.bin of"):
        from_hugging_face("org/net", ["missing.bin"], "v1", "timm:net")
