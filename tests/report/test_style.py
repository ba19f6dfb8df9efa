"""The style sheet: colours that can be read in both modes, by the rule of WCAG 2.2 (contrast 4.5, graphics 3)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = (files("vecstore.report") / "templates" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in CSS.split("prefers-color-scheme: dark", 1))


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [LIGHT, DARK], ids=["light", "dark"])
def test_text_stands_out_from_whatever_is_behind_it(mode: dict[str, str]) -> None:
    pairs = [(text, back) for text in ("ink", "soft") for back in ("paper", "card", "well", "tint", "warn-tint")]
    pairs += [("accent", "paper"), ("accent", "card"), ("warn", "warn-tint")]
    assert {pair for pair in pairs if _contrast(mode[pair[0]], mode[pair[1]]) < 4.5} == set()


@pytest.mark.parametrize("mode", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_and_bars_stand_out_from_their_panel(mode: dict[str, str]) -> None:
    names = ["accent", *(f"c{i}" for i in range(8))]
    assert {name for name in names if _contrast(mode[name], mode["card"]) < 3} == set()


def test_points_of_a_map_stand_out_from_its_panel() -> None:
    page = (files("vecstore.report") / "templates" / "map.html").read_text(encoding="utf-8")
    blocks = [dict(re.findall(r"--(\w+): (#\w{6})", line)) for line in page.splitlines() if "--r0:" in line]
    assert [sorted(block) for block in blocks] == [["none", "r0", "r1", "r2"]] * 2
    for block, mode in zip(blocks, (LIGHT, DARK), strict=True):
        assert {name for name, colour in block.items() if _contrast(colour, mode["card"]) < 3} == set()


def test_both_modes_name_the_same_colours() -> None:
    assert LIGHT.keys() == DARK.keys()
