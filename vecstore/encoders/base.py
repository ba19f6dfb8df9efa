"""What every encoder is: a picture's preparation (any thread) and its vector (one thread)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from vecstore.errors import EncoderError
from vecstore.records import FloatArray, Passport, UInt8Array


class Encoder(ABC):
    """A frozen network with its preprocessing and pooling.

    The vector of a picture does not depend on its neighbours, the batch size or the order: cosine at
    least 0.9999 in float32, and at least 0.999 between float32 and a shorter type.

    Attributes
    ----------
    passport : Passport
        What determines the vectors; its hash is the space's fingerprint.
    compute : str
        Type and device, e.g. "bfloat16 on cpu". Recorded per commit and not in the passport.
    batch_size : int
        Pictures per call of `encode` that suit the device; any other number works too.
    logit_scale : float
        What cosines of pictures and texts are multiplied by before a softmax; a model with texts states its own.
    """

    passport: Passport
    compute: str
    batch_size: int
    logit_scale: float = 100.0

    @abstractmethod
    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """Resize and crop one picture; safe in several threads at once, and most of it without the GIL.

        Parameters
        ----------
        picture : ndarray of shape (height, width, 3), uint8
            Not modified.

        Returns
        -------
        ndarray of shape (out_height, out_width, 3), uint8
            A new array of one of the encoder's input sizes.
        """

    @abstractmethod
    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """Vectors of prepared pictures, in order; their sizes may differ.

        Parameters
        ----------
        prepared : sequence of ndarray of shape (out_height, out_width, 3), uint8
            From `prepare`.

        Returns
        -------
        ndarray of shape (n, dim), float32
            Rows of unit length; a row that has no direction (not finite, or zero) is NaN throughout.
        """

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of texts in the same space, where it has texts.

        Returns
        -------
        ndarray of shape (n, dim), float32
            Rows of unit length.

        Raises
        ------
        EncoderError
            The encoder has no text tower.
        """
        raise EncoderError(
            f"the encoder {self.passport.encoder} has no text tower",
            expected="a space made by an open_clip encoder, e.g. open_clip:ViT-B-32/laion2b_s34b_b79k",
            do="search by a picture or an item, or ingest with such an encoder",
        )


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Rows scaled to unit length; NaN throughout where a row is not finite or zero.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
        Not modified.

    Returns
    -------
    ndarray of shape (n, dim), float32

    Examples
    --------
    >>> unit_rows(np.array([[3, 4], [0, 0], [1, np.inf]], np.float32))
    array([[0.6, 0.8],
           [nan, nan],
           [nan, nan]], dtype=float32)
    """
    # In float64, so that the squares of large float32 values can't overflow.
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    lengths[~np.isfinite(lengths) | (lengths == 0)] = np.nan
    with np.errstate(invalid="ignore"):  # inf / nan in a row that is refused anyway
        rows: FloatArray = (wide / lengths[:, None]).astype(np.float32)
    return rows
