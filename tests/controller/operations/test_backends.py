"""Which backend gets which model, precision and options. The devices are descriptions: nothing is executed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backbench.controller.operations.backends import parse_options, set_aside
from backbench.controller.operations.device_check import check_device
from backbench.controller.operations.making import ModelMaker
from backbench.controller.operations.plan import (
    ProfileRequest,
    make_ready,
    newest_opset,
    plan_profile,
    routes_of,
    specifications,
    uploads,
)
from backbench.domain.device import Backend, Device, DeviceIdentity, Limits
from backbench.domain.errors import BackendUnavailable, InvalidArgument, UnknownBackend, VersionMismatch

HELD = ("as-model", "fp32", "fp16", "int8")
ORT = Backend("onnxruntime", True, precisions=HELD, max_opset=22)
TRT_10 = Backend(
    "tensorrt", True, "10.3.0", precisions=HELD, options=("cuda-graph", "device", "dla", "sync", "workspace"),
    engine_precisions=("fp16", "bf16"),
)  # fmt: skip
TRT_11 = replace(TRT_10, version="11.4.0", engine_precisions=())
CUDA = Backend("onnxruntime-cuda", False, reason="no driver: libcuda.so.1 is missing; install it")
GOOD = ProfileRequest(("resnet50",), "orin", backends=("tensorrt", "onnxruntime"))


def device(*backends: Backend, **changes: Any) -> Device:
    known = Device(
        "d", DeviceIdentity(), backends or (ORT, TRT_10, CUDA), (), Limits(), "0.1.0", 1, 1, "i",
        features=("backend-options", "layers"),
    )  # fmt: skip
    return replace(known, **changes)


class Maker(ModelMaker):
    """Makes nothing, and notes into what each model would be made."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def converted(self, model: Any, size: Any, batch: Any, conversion: Any) -> Any:  # noqa: ARG002
        self.made.append(f"{conversion.precision} for {conversion.target}")
        return replace(model, path=model.path.with_name(f"{conversion.precision}-{conversion.target}.onnx"))

    def with_reference(self, model: Any, size: Any) -> Any:  # noqa: ARG002
        self.made.append("reference")
        return model


def test_a_backend_that_chooses_the_precision_gets_the_model_as_it_is_and_another_gets_it_converted() -> None:
    plan = plan_profile(replace(GOOD, precision="fp16"))
    check_device(plan, device())
    tensorrt, ort = routes_of(plan, device())
    assert (tensorrt.spec.precision, tensorrt.conversion.precision) == ("fp16", "fp32")
    assert (ort.spec.precision, ort.conversion.precision) == ("", "fp16")
    newer, _ = routes_of(plan, device(ORT, TRT_11))
    assert (newer.spec.precision, newer.conversion.precision) == ("", "fp16")


def test_int8_is_always_the_model_s_matter_and_laid_out_for_each_backend() -> None:
    plan = plan_profile(replace(GOOD, precision="int8"))
    check_device(plan, device())
    assert [(route.spec.precision, route.conversion.target) for route in routes_of(plan, device())] == [
        ("", "tensorrt"), ("", "cpu"),
    ]  # fmt: skip


def test_bf16_is_only_where_a_backend_chooses_it() -> None:
    alone = plan_profile(replace(GOOD, precision="bf16", backends=("tensorrt",)))
    assert routes_of(alone, device())[0].spec.precision == "bf16"
    with pytest.raises(InvalidArgument, match="--precision bf16: onnxruntime on orin does not choose that"):
        routes_of(plan_profile(replace(GOOD, precision="bf16")), device())


def test_every_backend_runs_every_model_and_what_they_share_is_made_and_pushed_once() -> None:
    plan = plan_profile(replace(GOOD, models=("resnet50", "resnet18"), layers=True, allow_fallback=True))
    maker, found = Maker(), routes_of(plan, device())
    ready = make_ready(plan, found, maker)
    assert maker.made == ["reference", "reference"]
    sent = uploads(plan, ready)
    assert [upload.name for upload in sent] == ["resnet50", "resnet18"]
    specs = specifications(plan, ready, {upload.path: "a" * 64 for upload in sent})
    assert [(spec.model.name, spec.backend.name) for spec in specs] == [
        ("resnet50", "tensorrt"), ("resnet50", "onnxruntime"), ("resnet18", "tensorrt"), ("resnet18", "onnxruntime"),
    ]  # fmt: skip
    assert len({spec.run_id for spec in specs}) == plan.run_count == 4
    assert all(spec.layers_pass and spec.backend.allow_fallback for spec in specs)
    halves = Maker()
    make_ready(
        plan_profile(replace(GOOD, precision="fp16")),
        routes_of(plan_profile(replace(GOOD, precision="fp16")), device()),
        halves,
    )
    assert halves.made == ["reference", "fp16 for cpu"]


def test_an_export_is_for_the_oldest_of_the_backends() -> None:
    assert newest_opset(routes_of(plan_profile(GOOD), device(ORT, replace(TRT_10, max_opset=18)))) == 18
    assert newest_opset(routes_of(plan_profile(replace(GOOD, backends=("onnxruntime",))), device())) == 20


def test_options_go_to_the_backends_that_have_them_and_that_is_said() -> None:
    plan = plan_profile(replace(GOOD, dla=1, cuda_graph=True, backend_option=("workspace = 2GB",)))
    tensorrt, ort = found = routes_of(plan, device())
    assert tensorrt.spec.options == {"workspace": "2GB", "dla": "1", "cuda-graph": "yes"}
    assert ort.spec.options == {}
    lines = set_aside(found, plan.options)
    assert "option dla is none of onnxruntime; it goes to the other backends alone" in lines
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("change", "known", "error", "words"),
    [
        ({"backends": ("tflite",)}, {}, UnknownBackend, "it has onnxruntime, tensorrt, onnxruntime-cuda"),
        (
            {"backends": ("onnxruntime", "onnxruntime-cuda")}, {}, BackendUnavailable,
            r"orin cannot open backend onnxruntime-cuda: no driver: libcuda\.so\.1 is missing",
        ),
        (
            {"backend_option": ("workspce=2GB",)}, {}, InvalidArgument,
            "the options are cuda-graph, device, dla, sync, workspace; did you mean workspace",
        ),
        ({"backends": ("onnxruntime",), "dla": 0}, {}, InvalidArgument, 'option "dla": .* it takes none'),
        ({"cuda_graph": True}, {"features": ()}, VersionMismatch, "orin does not know options of backends; update"),
        ({"allow_fallback": True}, {"features": ()}, VersionMismatch, "does not know --allow-fallback; update"),
        ({"layers": True}, {"features": ()}, VersionMismatch, "does not know --layers; update"),
    ],
)  # fmt: skip
def test_what_the_device_cannot_do_is_refused_before_anything_is_sent(
    change: dict[str, Any], known: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_device(plan_profile(replace(GOOD, **change)), device(**known))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backends": ()}, "no backend given"),
        ({"backends": ("tensorrt",) * 2}, "--backend tensorrt is given 2 times; give each backend once"),
        ({"backend_option": ("workspace",)}, '--backend-option "workspace" is not NAME=VALUE'),
        ({"backend_option": ("workspace=",)}, "is not NAME=VALUE"),
        ({"backend_option": ("a=" + "1" * 65,)}, "is not NAME=VALUE"),
        ({"backend_option": ("a=\x1b[31m",)}, "is not NAME=VALUE"),
        ({"backend_option": ("sync=spin", "sync=blocking")}, "option sync is given as spin and as blocking"),
        ({"backend_option": ("dla=0",), "dla": 1}, "option dla is given as 0 and as 1"),
        ({"dla": -1}, "--dla is -1"),
        ({"precision": "fp8"}, 'precision "fp8" is not known'),
    ],
)
def test_words_that_make_no_sense_are_refused_without_a_device(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        plan_profile(replace(GOOD, **change))


def test_the_same_option_said_twice_alike_is_one() -> None:
    assert parse_options(("dla=1", "dla=1"), 1, False) == {"dla": "1"}
