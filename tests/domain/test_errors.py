from __future__ import annotations

import re
from pathlib import Path

import pytest

from backbench.domain import errors
from backbench.domain.errors import ERRORS, BackbenchError, DeviceBusy, QueueFull, RunNotFound

PROTO = Path(__file__).parents[2] / "protos/backbench/v1/error.proto"
REASONS = set(re.findall(r"ERROR_REASON_(\w+) = [1-9]", PROTO.read_text(encoding="utf-8")))
CODES = {
    reason: code
    for code, reason in re.findall(
        r"// ([A-Z_]+): [^\n]+\n\s+ERROR_REASON_(\w+) = \d+;", PROTO.read_text(encoding="utf-8")
    )
}
GROUPS = BackbenchError.__subclasses__()


def classes() -> list[type[BackbenchError]]:
    return [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BackbenchError)]


@pytest.mark.parametrize("cls", ERRORS.values(), ids=ERRORS.keys())
def test_every_error_has_a_reason_a_code_and_an_exit_status(cls: type[BackbenchError]) -> None:
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", cls.reason)
    assert cls.code == CODES[cls.reason]
    assert cls.exit_status in (2, 3, 130)


@pytest.mark.parametrize("cls", ERRORS.values(), ids=ERRORS.keys())
def test_a_reason_is_the_name_of_its_error(cls: type[BackbenchError]) -> None:
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper() == cls.reason


def test_the_reasons_are_those_of_the_wire_contract_and_no_others() -> None:
    assert set(ERRORS) == REASONS
    assert set(CODES) == REASONS


def test_no_error_is_missing_from_the_table() -> None:
    concrete = {each for each in classes() if each is not BackbenchError and each not in GROUPS}
    assert set(ERRORS.values()) == concrete


def test_every_error_says_one_thing_to_do() -> None:
    assert all(cls.__mro__[1] in GROUPS for cls in ERRORS.values())


def test_every_error_is_in_the_overview_of_its_module() -> None:
    assert errors.__doc__ is not None
    assert not [cls.__name__ for cls in classes() if not re.search(rf"\b{cls.__name__}\b", errors.__doc__)]


def test_a_wrong_request_ends_with_2_a_failing_device_with_3_and_an_interruption_with_130() -> None:
    by_code = {cls.code: cls.exit_status for cls in ERRORS.values()}
    assert {code for code, status in by_code.items() if status == 2} == {"INVALID_ARGUMENT", "NOT_FOUND"}
    assert {code for code, status in by_code.items() if status == 130} == {"CANCELLED"}


def test_errors_are_equal_when_their_class_text_and_nouns_are() -> None:
    assert RunNotFound("no run 1", run_id="1") == RunNotFound("no run 1", run_id="1")
    assert RunNotFound("no run 1", run_id="1") != RunNotFound("no run 1", run_id="2")
    assert DeviceBusy("later") != QueueFull("later")
    assert len({DeviceBusy("later"), DeviceBusy("later")}) == 1


def test_a_noun_may_have_any_name() -> None:
    assert RunNotFound("text", message="a", self="b").details == {"message": "a", "self": "b"}
