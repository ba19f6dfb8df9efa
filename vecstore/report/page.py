"""What all pages share: the templates, and values made safe and readable."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from vecstore.files import sniff

_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of surrogate pairs, and marks that turn the reading direction of what follows."""

_JOINTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[a-zA-Z0-9][/\\_!-])(?=\w)")
"""Where a long name is divided: ImageType, a_b, a/b, ORIGINAL\\PRIMARY."""

_MIME = {"jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp"}


def clean(value: object) -> str:
    """Text that any browser shows and UTF-8 can write: what can't be shown becomes U+FFFD.

    >>> clean("a\\x00b\\udcffc"), clean(60.0), clean(None)
    ('a\ufffdb\ufffdc', '60', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return _UNSHOWABLE.sub("\ufffd", text)


def breakable(text: str) -> Markup:
    """Text that a narrow column divides between its words, though no space is there.

    >>> breakable("BurnedInAnnotation <b>")
    Markup('Burned<wbr>In<wbr>Annotation &lt;b&gt;')
    """
    return Markup("<wbr>").join(escape(part) for part in _JOINTS.split(text))


def share(value: float | None) -> str:
    """A share or area from 0 to 1 with two digits; three where two would claim perfection.

    >>> share(0.9449), share(0.9999), share(1.0), share(None)
    ('0.94', '0.999', '1.00', 'not defined')
    """
    if value is None:
        return "not defined"
    return f"{min(value, 0.999):.3f}" if 0.995 <= value < 1 else f"{value:.2f}"


def probability(value: float) -> str:
    """A probability with three digits; very small and very high ones are not written out.

    >>> probability(0.5), probability(0.0004), probability(0.99996)
    ('0.500', '< 0.001', '> 0.999')
    """
    return "< 0.001" if value < 0.001 else "> 0.999" if value > 0.999 else f"{value:.3f}"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval with an en dash.

    >>> interval((0.9, 0.954)), interval(None)
    ('0.90–0.95', '')
    """
    return "" if bounds is None else f"{share(bounds[0])}–{share(bounds[1])}"


def count(n: int, noun: str, plural: str = "") -> str:
    """A number and its noun; thousands apart by a thin space that does not break.

    >>> count(1, "picture"), count(12, "study", "studies")
    ('1 picture', '12 studies')
    """
    return f"{number(n)} {noun if n == 1 else plural or noun + 's'}"


def number(n: int) -> str:
    """An integer, thousands apart by a thin space that does not break.

    >>> number(12345)
    '12\u202f345'
    """
    return f"{n:,}".replace(",", "\u202f")


def phrase(value: object) -> str:
    """A value of a record as one line of text.

    >>> phrase({"strength": 0.1, "folds": 5}), phrase(["a", "b"]), phrase("")
    ('strength 0.1, folds 5', 'a, b', '–')
    """
    if isinstance(value, Mapping):
        value = ", ".join(f"{clean(name)} {phrase(part)}" for name, part in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(phrase(part) for part in value)
    return clean(value) or "–"


def data_uri(picture: bytes | None) -> str | None:
    """A picture as a link that holds it; None for what no browser shows.

    >>> data_uri(b"\\x89PNG\\r\\n\\x1a\\n")
    'data:image/png;base64,iVBORw0KGgo='
    """
    mime = _MIME.get(sniff(picture) or "") if picture else None
    return f"data:{mime};base64,{base64.b64encode(picture or b'').decode()}" if mime else None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vecstore.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "clean": clean,
        "breakable": breakable,
        "share": share,
        "interval": interval,
        "number": number,
    }
    return environment


_TEMPLATES = _environment()


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template with values; every value is escaped where it lands."""
    return _TEMPLATES.get_template(template).render(values)
