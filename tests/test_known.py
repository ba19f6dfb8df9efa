"""What is known beside the pixels, as features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vecstore.dataset.known import known_features, size_features, value_features
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Store


def test_numbers_keep_their_value_and_what_is_missing_is_the_mean_and_said() -> None:
    np.testing.assert_array_equal(value_features([1, 3, None]), [[1, 0], [3, 0], [2, 1]])
    np.testing.assert_array_equal(value_features([1.5, 2]), [[1.5], [2]])
    assert value_features([None, None]).shape == (2, 0)


def test_rare_words_share_a_feature() -> None:
    words = ["a"] * 3 + ["b"] * 2 + ["c", "d"]
    np.testing.assert_array_equal(
        value_features(words, rare=2)[[0, 3, 5, 6]], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    )
    np.testing.assert_array_equal(value_features(words, most=1)[[0, 3, 5]], [[1, 0], [0, 1], [0, 1]])
    assert value_features(words).shape == (7, 4)
    assert value_features(["a", 1]).shape == (2, 2)


def test_sizes_are_logarithms_and_nothing_where_all_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number, (width, height) in enumerate(((8, 8), (16, 8), (16, 8))):
        pixels = np.full((height, width, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "t.csv").write_text("file,y,age,same\n0.png,a,40,x\n1.png,b,50,x\n2.png,b,,x\n")
    with Store.create(tmp_path / "x.vecs") as store:
        ingest(store, tmp_path / "a", encoder="fake", thumbnails=False)
        label(store, tmp_path / "t.csv", task="t", key="file", value="y", columns=["age", "same"])
        items = store.items()
        sizes = size_features(store, items.contents)
        np.testing.assert_allclose(np.exp(sizes), [[8, 8, 1], [16, 8, 2], [16, 8, 2]])
        assert size_features(store, items.contents[1:]).shape == (2, 0)
        made, used = known_features(store, items.ids, items.contents, ["age", "same"])
        assert used == ["image size", "age", "same"]
        assert made.shape == (3, 2 + 2)  # all heights are alike, so are the words of "same"
