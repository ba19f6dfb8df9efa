"""Names of encoders."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from vecstore.encoders import list_encoders, open_encoder
from vecstore.encoders.registry import Family, _families, _make
from vecstore.errors import EncoderError, NotFound, PackageMissing, UsageError


def test_each_family_has_an_example_of_its_own() -> None:
    families = list_encoders()
    assert [family.name for family in families[:5]] == ["bundled", "torchvision", "open_clip", "timm", "fake"]
    assert all(family.example.partition(":")[0] == family.name and family.about for family in families[:5])


def test_an_unknown_name_lists_what_there_is_and_guesses() -> None:
    with pytest.raises(NotFound, match="no encoder 'tochvision:resnet50'; expected a name like one of: bundled, ") as e:
        open_encoder("tochvision:resnet50")
    assert str(e.value).endswith("did you mean torchvision:resnet50/IMAGENET1K_V2?")
    assert "fake:64" not in str(e.value)
    for name, family in (
        ("resnet50", "torchvision:"),
        ("ViT-B-16", "open_clip:"),
        ("vit_base_patch14_dinov2", "timm:"),
    ):
        with pytest.raises(NotFound, match=f"did you mean {family}"):
            open_encoder(name)


def test_a_third_party_registers_a_family() -> None:
    point = EntryPoint("mine", "vecstore.encoders.fake:make", "vecstore.encoders")
    families = {family.name: family for family in _families([point])}
    assert _make(families["mine"])("mine:8", None, None, None).passport.dim == 8


def test_a_name_registered_twice_is_an_error() -> None:
    points = [EntryPoint("mine", f"{package}:make", "vecstore.encoders") for package in ("a", "b")]
    with pytest.raises(EncoderError, match="two encoders are registered as 'mine': a:make and b:make; expected one"):
        _families(points)
    with pytest.raises(EncoderError, match="two encoders are registered as 'bundled'"):
        _families([EntryPoint("bundled", "a:make", "vecstore.encoders")])


def test_an_absent_library_names_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['open_clip'] = None\n"
        "from vecstore.encoders import open_encoder\n"
        "from vecstore.errors import PackageMissing\n"
        "try: open_encoder('open_clip:ViT-B-32/openai')\n"
        "except PackageMissing as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("which is not installed; run: pip install open_clip_torch")


def test_an_absent_module_that_is_no_optional_library_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _make(Family("mine", "no_such_module:make", "mine", "for this test"))
    assert issubclass(PackageMissing, EncoderError)


def test_naming_and_faking_imports_no_heavy_library() -> None:
    code = (
        "import sys; from vecstore.encoders import list_encoders, open_encoder\n"
        "list_encoders(); open_encoder('fake')\n"
        "print(sorted({'torch', 'timm', 'torchvision', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["fake:1", "fake:x", "fake:99999"])
def test_a_fake_encoder_of_no_sensible_length_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected fake, or fake:DIM"):
        open_encoder(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet50/DEFAULT", "DEFAULT means other weights in other versions; expected one of: torchvision"),
        ("torchvision:resnet50/V9", "no weights 'V9' of resnet50; expected one of: torchvision:resnet50/IMAGENET1K_V1"),
        ("torchvision:resnet51", "no classifier 'resnet51'; expected one of 80, such as resnet50"),
        ("torchvision:resnet50", "names no weights; expected one of: .*; or give a file with --weights"),
        ("timm:resnet18", r"names no weights; expected one of: timm:resnet18\.a1_in1k, .*--weights"),
        ("timm:resnet18.nope", r"no weights 'resnet18\.nope'; expected one of: timm:resnet18\.a1_in1k"),
        ("timm:resnot18", "timm has no model 'resnot18'; expected an architecture such as resnet18"),
        ("open_clip:ViT-B-32", "names no weights; expected one of: open_clip:ViT-B-32/openai, .* and 14 more"),
        ("open_clip:ViT-B-32/nope", "no weights 'nope' of ViT-B-32; expected one of: open_clip:ViT-B-32/openai"),
        ("open_clip:ViT-B-33", "no model 'ViT-B-33'; expected an architecture such as ViT-B-32"),
        ("open_clip:local-dir:", "no folder ''; expected a folder after local-dir:"),
    ],
)
def test_incomplete_and_unknown_names_list_the_choices(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_encoder(name)
