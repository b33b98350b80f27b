"""What an engine computes in: by the builder's flags where it has them, else by the types that the model states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.tensorrt.module import Library
from backbench.domain.run import FailureReason

_FLAGS = {"fp16": "FP16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class Policy:
    """How a network is made for a precision. `strongly_typed`: the model's own types hold, and no flag is given."""

    precision: str
    strongly_typed: bool
    network_flags: int


def engine_precisions(library: Library) -> tuple[str, ...]:
    """What may be asked of this version beside the model's own precision; nothing where models state their types.

    Not int8: its scales are the model's matter, in QuantizeLinear and DequantizeLinear nodes.
    """
    return tuple(name for name, flag in _FLAGS.items() if library.builder_flag(flag) is not None)


def policy_for(library: Library, precision: str, *, on_dla: bool) -> Policy:
    """How to make the network. Raises WorkerFailure where this version cannot compute in that precision by itself.

    As the model is means strongly typed wherever that exists; of older versions the flags for what the model holds.
    Versions that have both do not take a strongly typed network for DLA.
    """
    if precision not in ("", "int8", *_FLAGS):
        raise _refused(
            f'precision "{precision}" is none of {", ".join(_FLAGS)}, int8; leave it out for the model\'s own'
        )
    asked = precision in _FLAGS
    if asked and library.builder_flag(_FLAGS[precision]) is None:
        raise _refused(
            f"{library.label} {library.version} has no {precision} flag: it computes in the model's own types;"
            f" convert the model (backbench export ... --precision {precision}) and leave the engine's precision out"
        )
    has_flags = bool(engine_precisions(library))
    strong = not has_flags or (bool(library.strongly_typed_flag) and not asked and not on_dla)
    flags = library.explicit_batch_flag | (library.strongly_typed_flag if strong else 0)
    return Policy(precision, strong, flags)


def builder_flags(library: Library, policy: Policy, network: Any) -> tuple[str, ...]:
    """The flags that the parsed network needs. Raises WorkerFailure for int8 of a model that states no scales."""
    quantized = _is_quantized(library, network)
    if policy.precision == "int8" and not quantized:
        raise WorkerFailure(
            FailureReason.INVALID_MODEL,
            "int8 was asked for, but the model has no QuantizeLinear and DequantizeLinear nodes and nothing here"
            " calibrates; convert the model (backbench export ... --precision int8)",
        )
    if policy.strongly_typed:
        return ()
    held = _types_held(network)
    wanted = {
        "FP16": policy.precision == "fp16" or "HALF" in held,
        "BF16": policy.precision == "bf16" or "BF16" in held,
        "INT8": quantized,
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def policy_words(policy: Policy, flags: tuple[str, ...]) -> str:
    """The policy as a fact, for people."""
    if policy.strongly_typed:
        return "strongly typed: the model's own types"
    return f"flags {' '.join(flags)}" if flags else "no flags: fp32, TF32 where the GPU has it"


def _is_quantized(library: Library, network: Any) -> bool:
    kinds = {library.module.LayerType.QUANTIZE, library.module.LayerType.DEQUANTIZE}
    return any(network.get_layer(index).type in kinds for index in range(network.num_layers))


def _types_held(network: Any) -> set[str]:
    """The names of the types of the network's inputs and of what its layers put out."""
    held = {network.get_input(index).dtype.name for index in range(network.num_inputs)}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        held.update(layer.get_output(place).dtype.name for place in range(layer.num_outputs))
    return held


def _refused(message: str) -> WorkerFailure:
    return WorkerFailure(FailureReason.ENGINE_BUILD_FAILED, message)
