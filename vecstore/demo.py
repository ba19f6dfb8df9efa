"""`demo`: the whole path on real pictures that a package brings along, or on a MedMNIST set."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vecstore.errors import NotFound, PackageMissing, WeightsMissing
from vecstore.files import cache_home, make_folder, offline
from vecstore.ingest import IngestResult, ingest
from vecstore.label import label
from vecstore.pages import write_similar_page
from vecstore.records import Progress, Silent
from vecstore.reporting import report
from vecstore.search import SearchResult, search
from vecstore.store import Store
from vecstore.train import train
from vecstore.trained import Record

PUBLISHED_RESNET18 = {
    "pathmnist": 0.983,
    "chestmnist": 0.768,
    "dermamnist": 0.917,
    "octmnist": 0.943,
    "pneumoniamnist": 0.944,
    "retinamnist": 0.717,
    "breastmnist": 0.901,
    "bloodmnist": 0.998,
    "tissuemnist": 0.930,
    "organamnist": 0.997,
    "organcmnist": 0.992,
    "organsmnist": 0.972,
}
"""Test AUC of a ResNet-18 trained at 28 px: Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023), table 3."""

MEDMNIST_URL = "https://zenodo.org/records/10519652/files/{name}.npz?download=1"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo made.

    Attributes
    ----------
    store : Path
    archive : Path
        The real pictures that were embedded.
    ingested : IngestResult
    record : Record
        Of the trained probe.
    hits : SearchResult
    pages : dict
        Name to path: "report", beside which lie its JSON and a model card, and "similar".
    published : float or None
        Test AUC of a conventionally trained ResNet-18, for a MedMNIST set.
    """

    store: Path
    archive: Path
    ingested: IngestResult
    record: Record
    hits: SearchResult
    pages: dict[str, Path] = field(default_factory=dict)
    published: float | None = None


def demo(
    folder: str | os.PathLike[str] | None = None,
    *,
    medmnist: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Embed real pictures, train a probe from labels, write its report, find similar cases.

    Parameters
    ----------
    folder : path, optional
        For the store and the pages; `vecstore-demo` in the working folder by default. A store that is
        there from an earlier run is used again.
    medmnist : str or path, optional
        A MedMNIST set by name ("breastmnist", downloaded where the network allows) or by file, instead of
        the DICOM files of the package `pydicom-data`.
    progress : Progress, optional

    Returns
    -------
    DemoResult

    Raises
    ------
    PackageMissing
        `pydicom-data` is not installed.
    NotFound
        No such file, and no MedMNIST set of this name.
    WeightsMissing
        The MedMNIST file is not there and can't be downloaded.
    """
    progress = progress or Silent()
    target = Path(folder or "vecstore-demo")
    make_folder(target)
    if medmnist is None:
        return _dicom(target, progress)
    return _medmnist(target, _medmnist_file(medmnist, progress), progress)


def _dicom(folder: Path, progress: Progress) -> DemoResult:
    archive = _dicom_files()
    path = folder / "dicom.vecs"
    result = ingest(path, archive, source="pydicom-data", progress=progress)
    with Store(path) as store:
        if result.added or not any(task.name == "modality" for task in store.tasks()):
            label(store, task="modality", column="Modality")
        return _finish(store, folder, archive, result, "modality", None, progress)


def _medmnist(folder: Path, file: Path, progress: Progress) -> DemoResult:
    path = folder / f"{file.stem}.vecs"
    result = ingest(path, file, kind="medmnist", progress=progress)
    with Store(path) as store:
        task = store.tasks()[0].name
        published = PUBLISHED_RESNET18.get(task) if file.stem == task else None
        return _finish(store, folder, file, result, task, published, progress)


def _finish(
    store: Store,
    folder: Path,
    archive: Path,
    ingested: IngestResult,
    task: str,
    published: float | None,
    progress: Progress,
) -> DemoResult:
    """Train (unless these labels have a model already), judge, search, write the pages."""
    if not any(model.task.id == store.task(task).id for model in store.models(task)):
        train(store, task, min_groups=2, progress=progress)
    found = report(store, task, folder / f"{task}-report.html", progress=progress)
    hits = search(store, int(found.probe.items[0]), k=min(10, len(store.items())), thumbnails=True)
    similar = folder / f"{task}-similar.html"
    write_similar_page(store, hits, similar)
    pages = {"report": found.html, "similar": similar}
    return DemoResult(store.path, archive, ingested, found.probe.record, hits, pages, published)


def _dicom_files() -> Path:
    """Where the package `pydicom-data` keeps its files."""
    spec = importlib.util.find_spec("data_store")
    for place in spec.submodule_search_locations or () if spec else ():
        if (Path(place) / "data").is_dir():
            return Path(place) / "data"
    raise PackageMissing(
        "the demo's real DICOM files are not installed",
        expected="the package pydicom-data",
        do="pip install 'vecstore[demo]', or: vecstore demo --medmnist FILE.npz",
    )


def _medmnist_file(name: str | os.PathLike[str], progress: Progress) -> Path:
    """The file itself, one downloaded before, or a download."""
    given = Path(name)
    if given.is_file():
        return given
    stem = given.name.removesuffix(".npz")
    cached = cache_home() / "medmnist" / f"{stem}.npz"
    if cached.is_file():
        return cached
    if stem.split("_")[0] not in PUBLISHED_RESNET18:
        raise NotFound(
            f"{name}: no such file, and no MedMNIST set",
            expected=f"a file, or one of: {', '.join(PUBLISHED_RESNET18)}",
            do="vecstore demo --medmnist breastmnist",
        )
    url = MEDMNIST_URL.format(name=stem)
    try:
        if offline():
            raise OSError("downloads are forbidden by VECSTORE_OFFLINE or HF_HUB_OFFLINE")
        make_folder(cached.parent)
        _download(url, cached, progress)
    except OSError as error:  # urllib's own errors are of this kind
        raise WeightsMissing(
            f"{name}: no such file, and it can't be downloaded now: {getattr(error, 'reason', error)}",
            expected=f"{url}, fetched by hand where this machine has no network",
            do=f"give the file: vecstore demo --medmnist {stem}.npz, or put it at {cached}",
        ) from error
    return cached


def _download(url: str, path: Path, progress: Progress) -> None:
    """Fetch a file whole or not at all; what, how large and where to is said first."""
    import urllib.request

    partial = path.with_suffix(f".part-{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=10) as answer, partial.open("wb") as file:
            length = int(answer.headers.get("Content-Length") or 0)
            progress.say(f"downloading {url} ({length / 1e6:.1f} MB) to {path}")
            shutil.copyfileobj(answer, file)
            if length and file.tell() != length:
                raise OSError(f"{file.tell()} of {length} bytes came")
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
