"""Figures of how far outputs are apart: known values, and numbers that are none."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backbench.controller.export.fidelity import (
    OutputComparison,
    SignalToNoise,
    cosine,
    max_relative_error,
    sqnr_db,
    top1_agreement,
)

RNG = np.random.Generator(np.random.PCG64(3))
SIGNAL = RNG.standard_normal((8, 100)).astype(np.float32)
NOISE = RNG.standard_normal((8, 100)).astype(np.float32)
FIGURES = (sqnr_db, cosine, max_relative_error, top1_agreement)


def test_noise_of_a_tenth_of_the_signal_is_twenty_decibels() -> None:
    assert sqnr_db(SIGNAL, SIGNAL + NOISE / 10) == pytest.approx(20, abs=1)


def test_what_all_images_share_is_no_signal() -> None:
    shared = np.float32(1000)
    assert sqnr_db(SIGNAL + shared, SIGNAL + shared + NOISE) == pytest.approx(0, abs=1)


def test_an_offset_of_all_images_is_noise() -> None:
    assert sqnr_db(SIGNAL, SIGNAL + 1) == pytest.approx(0, abs=1)


def test_one_image_counts_with_all_its_power() -> None:
    assert sqnr_db(np.full((1, 4), 10.0), np.full((1, 4), 11.0)) == pytest.approx(20)


def test_equal_outputs_have_an_infinite_ratio_and_no_error() -> None:
    assert sqnr_db(SIGNAL, SIGNAL) == math.inf
    assert cosine(SIGNAL, SIGNAL) == pytest.approx(1)
    assert max_relative_error(SIGNAL, SIGNAL) == 0
    assert top1_agreement(SIGNAL, SIGNAL) == 1


def test_images_that_all_look_alike_to_the_model_have_no_ratio() -> None:
    assert sqnr_db(np.ones((4, 5)), np.full((4, 5), 1.1)) is None


def test_the_worst_image_decides() -> None:
    wrong = SIGNAL.copy()
    wrong[2] = -wrong[2]
    assert cosine(SIGNAL, wrong) == pytest.approx(-1)
    assert max_relative_error(SIGNAL, wrong) == pytest.approx(2)
    assert top1_agreement(SIGNAL, wrong) == pytest.approx(7 / 8)


def test_an_output_of_zeros_has_no_direction_and_takes_nothing_but_zeros() -> None:
    zeros = np.zeros((2, 3))
    assert cosine(zeros, zeros) is None
    assert max_relative_error(zeros, zeros) == 0
    assert max_relative_error(zeros, zeros + 1e-9) is None


def test_a_feature_map_has_no_largest_class() -> None:
    maps = SIGNAL.reshape(8, 4, 5, 5)
    assert top1_agreement(maps, maps) is None


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_gives_no_figure(figure: Any, bad: float) -> None:
    spoilt = SIGNAL.copy()
    spoilt[5, 5] = bad
    assert figure(SIGNAL, spoilt) is None
    assert figure(spoilt, SIGNAL) is None
    assert figure(spoilt, spoilt) is None


@pytest.mark.parametrize("figure", FIGURES)
def test_other_shapes_and_no_numbers_give_no_figure(figure: Any) -> None:
    assert figure(SIGNAL, SIGNAL[:, :50]) is None
    assert figure(SIGNAL[:0], SIGNAL[:0]) is None


def batches(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[:3], values[3:6], values[6:]]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_batches_give_what_the_whole_gives(offset: float) -> None:
    signal = SIGNAL.astype(np.float64) + offset
    produced = signal + NOISE / 10
    ratio, comparison = SignalToNoise(), OutputComparison("logits", logits=True)
    for wanted, got in zip(batches(signal), batches(produced), strict=True):
        ratio.add(wanted, got)
        comparison.add(wanted, got)
    result = comparison.result()
    assert ratio.db() == pytest.approx(20, abs=1)
    assert result.sqnr_db == pytest.approx(sqnr_db(signal, produced))
    assert result.cosine == pytest.approx(cosine(signal, produced))
    assert result.max_relative_error == pytest.approx(max_relative_error(signal, produced))
    assert result.top1_agreement == pytest.approx(top1_agreement(signal, produced))


def test_one_spoilt_batch_spoils_the_output() -> None:
    comparison = OutputComparison("logits", logits=True)
    comparison.add(SIGNAL, SIGNAL)
    comparison.add(SIGNAL, np.full_like(SIGNAL, np.nan))
    comparison.add(SIGNAL, SIGNAL)
    result = comparison.result()
    assert (result.sqnr_db, result.cosine, result.max_relative_error, result.top1_agreement) == (None,) * 4


def test_no_batch_gives_no_figure() -> None:
    result = OutputComparison("logits", logits=True).result()
    assert (result.sqnr_db, result.cosine, result.max_relative_error, result.top1_agreement) == (None,) * 4


def test_a_document_holds_nothing_that_json_lacks() -> None:
    comparison = OutputComparison("embedding", logits=False)
    comparison.add(SIGNAL, SIGNAL)
    document = comparison.result().to_document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["sqnr_db"], document["max_relative_error"], document["top1_agreement"]) == (None, 0.0, None)
