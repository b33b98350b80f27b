"""How far a converted model's outputs are from the original's. Arrays are images x the output's shape.

A figure that is no number is None, never a good grade: a NaN or an infinite number on either side makes all None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class OutputFidelity:
    """One output's figures over all held-out images; of cosine and error the worst image's.

    `sqnr_db` is infinite where nothing differs; `top1_agreement` is a share, None where the output is no logits.
    """

    name: str
    sqnr_db: float | None
    cosine: float | None
    max_relative_error: float | None
    top1_agreement: float | None

    def to_document(self) -> dict[str, Any]:
        """For JSON, which has no infinity: an infinite ratio is null there, beside an error of 0."""
        finite = self.sqnr_db is not None and math.isfinite(self.sqnr_db)
        return {
            "name": self.name,
            "sqnr_db": self.sqnr_db if finite else None,
            "cosine": self.cosine,
            "max_relative_error": self.max_relative_error,
            "top1_agreement": self.top1_agreement,
        }


def sqnr_db(reference: Array, produced: Array) -> float | None:
    """Signal to quantization noise in dB; the signal is what differs between images, where there are at least two.

    What all images have in common is taken out of the signal and left in the noise: a network's outputs share most of
    their power, and that part says nothing about telling images apart. Infinite where nothing differs.
    """
    ratio = SignalToNoise()
    ratio.add(reference, produced)
    return ratio.db()


def cosine(reference: Array, produced: Array) -> float | None:
    """The cosine between the two, of the image where it is lowest; None where an image's numbers are all 0."""
    if not _comparable(reference, produced):
        return None
    wanted, got = _rows(reference), _rows(produced)
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    if not norms.all():
        return None
    return float(np.clip(np.einsum("ij,ij->i", wanted, got) / norms, -1, 1).min())


def max_relative_error(reference: Array, produced: Array) -> float | None:
    """The largest difference over the reference's largest number, of the image where that is highest."""
    if not _comparable(reference, produced):
        return None
    wanted, got = _rows(reference), _rows(produced)
    differences, largest = np.abs(got - wanted).max(axis=1), np.abs(wanted).max(axis=1)
    if (differences[largest == 0] > 0).any():
        return None
    return float((differences / np.where(largest == 0, 1, largest)).max())


def top1_agreement(reference: Array, produced: Array) -> float | None:
    """The share of images for which both have their largest number in the same place; None unless images x classes."""
    if reference.ndim != 2 or not _comparable(reference, produced):
        return None
    return float((reference.argmax(axis=1) == produced.argmax(axis=1)).mean())


@dataclass(slots=True)
class SignalToNoise:
    """`sqnr_db` over batches, without keeping them.

    Sums are of the distance to the first image: a mean far from 0 would otherwise cost digits.
    """

    _count: int = 0
    _first: Array | None = None
    _sum: Any = 0.0
    _squares: float = 0.0
    _first_square: float = 0.0
    _noise: float = 0.0
    _usable: bool = True

    def add(self, reference: Array, produced: Array) -> None:
        """Take in a batch."""
        self._usable = self._usable and _comparable(reference, produced)
        if not self._usable:
            return
        wanted, got = _rows(reference), _rows(produced)
        if self._first is None:
            self._first = wanted[0].copy()
            self._first_square = float(np.square(self._first).sum())
        shifted = wanted - self._first
        self._count += len(wanted)
        self._sum = self._sum + shifted.sum(axis=0)
        self._squares += float(np.square(shifted).sum())
        self._noise += float(np.square(got - wanted).sum())

    def db(self) -> float | None:
        """The ratio so far; None where it is no number, or there is no signal."""
        if not self._usable or not self._count:
            return None
        if self._count > 1:
            signal = self._squares - float(np.square(self._sum).sum()) / self._count
        else:
            signal = self._first_square
        if not self._noise:
            return math.inf
        return 10 * math.log10(signal / self._noise) if signal > 0 else None


@dataclass(slots=True)
class OutputComparison:
    """One output's figures over batches; `logits` says whether the place of the largest number means something."""

    name: str
    logits: bool
    _ratio: SignalToNoise = field(default_factory=SignalToNoise)
    _cosines: list[float | None] = field(default_factory=list)
    _errors: list[float | None] = field(default_factory=list)
    _agreeing: list[tuple[float | None, int]] = field(default_factory=list)

    def add(self, reference: Array, produced: Array) -> None:
        """Take in a batch."""
        self._ratio.add(reference, produced)
        self._cosines.append(cosine(reference, produced))
        self._errors.append(max_relative_error(reference, produced))
        self._agreeing.append((top1_agreement(reference, produced) if self.logits else None, len(reference)))

    def result(self) -> OutputFidelity:
        """The figures."""
        cosines, errors = _all_known(self._cosines), _all_known(self._errors)
        shares = _all_known([share for share, _ in self._agreeing])
        count = sum(images for _, images in self._agreeing)
        weighted = zip(shares, (images for _, images in self._agreeing), strict=False)
        return OutputFidelity(
            self.name,
            sqnr_db=self._ratio.db(),
            cosine=min(cosines, default=None),
            max_relative_error=max(errors, default=None),
            top1_agreement=sum(share * images for share, images in weighted) / count if shares else None,
        )


def _all_known(numbers: list[float | None]) -> list[float]:
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else []


def _rows(values: Array) -> Array:
    return values.reshape(len(values), -1).astype(np.float64)


def _comparable(reference: Array, produced: Array) -> bool:
    return (
        reference.shape == produced.shape
        and reference.size > 0
        and bool(np.isfinite(reference).all())
        and bool(np.isfinite(produced).all())
    )
