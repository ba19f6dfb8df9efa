"""Encoders: pictures to vectors of unit length. `open_encoder` by name; `Encoder` in `base`.

Nothing heavy is imported until an encoder is opened.
"""

from vecstore.encoders.registry import Family, list_encoders, open_encoder

__all__ = ["Family", "list_encoders", "open_encoder"]
