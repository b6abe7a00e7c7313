"""model.json and weights.safetensors: a network taken apart, and built again within bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from reinforge.bundle.bounds import bounded
from reinforge.core.seeds import undisturbed
from reinforge.errors import BundleError, ComponentError
from reinforge.models.classic.classic import Classic
from reinforge.models.composed import Composed, Wrapped
from reinforge.models.compressed import Compressed, restructure, unpack
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json

Factory = Callable[[], nn.Module]
_WHERE = "model.json"


@dataclass(frozen=True)
class Blueprint:
    """What a network is built from: a registered model's options, or the name of a user's own module."""

    signature: Signature
    options: Options | None = None
    module: str | None = None
    wrapped: bool = False
    compressed: Compressed | None = None

    @classmethod
    def of(cls, model: nn.Module, options: Options | str, signature: Signature) -> Blueprint:
        """`options`: of the registered model, or the name under which callers of `load` pass a factory."""
        if isinstance(options, str):
            return cls(signature, None, options, isinstance(model, Wrapped))
        # Only of its own kind: a component that returns another's model may do more than its options say.
        described = model.described if isinstance(model, Composed | Classic) else None
        return cls(signature, described if type(options) is type(described) else options)

    def to_json(self, shared: Mapping[str, str]) -> Json:
        """`shared`: weights that are another weight, by name."""
        made: Json = {"module": self.module, "wrapped": self.wrapped}
        if self.options is not None:
            made = {"options": self.options.model_dump(mode="json")}
        if self.compressed is not None:
            made["compressed"] = self.compressed.model_dump(mode="json")
        return {"version": 1, **made, "signature": self.signature.model_dump(mode="json"), "shared": dict(shared)}

    @classmethod
    def from_json(cls, value: Json) -> tuple[Blueprint, dict[str, str]]:
        """The blueprint and the shared weights. Raises BundleError, or ComponentError for an unregistered name."""
        if not isinstance(value, dict) or value.get("version") != 1:
            raise BundleError("its version is unknown", where=_WHERE, remedy="Upgrade reinforge.")
        shared = value.get("shared")
        if not isinstance(shared, dict) or not all(isinstance(name, str) for name in shared.values()):
            raise BundleError("`shared` is malformed", where=_WHERE)
        value = dict(value)
        try:
            told = value.pop("compressed", None)
            change = None if told is None else Compressed.model_validate(told)
            signature = Signature.model_validate(value.get("signature"))
            if set(value) == {"version", "module", "wrapped", "signature", "shared"}:
                name, wrapped = value["module"], value["wrapped"]
                if not isinstance(name, str) or not isinstance(wrapped, bool):
                    raise BundleError("`module` is malformed", where=_WHERE)
                return cls(signature, None, name, wrapped, change), shared
            if set(value) != {"version", "options", "signature", "shared"} or not isinstance(value["options"], dict):
                raise BundleError("its keys are unknown", where=_WHERE)
            component = REGISTRY.find("model", str(value["options"].get("kind"))[:100])
            options = component.options.model_validate(value["options"])
            return cls(signature, options, compressed=change), shared
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            if first["type"] == "component_unknown":
                raise _unregistered(f"{place}: {first['msg']}"[:400]) from None
            raise BundleError(f"{place}: {first['msg']}"[:400], where=_WHERE) from None
        except ComponentError as error:
            raise _unregistered(error.problem, error.remedy) from None


def _unregistered(problem: str, known: str | None = None) -> ComponentError:
    remedy = "Import or install the code that registers it (command line: --use FILE.py), then load again."
    return ComponentError(
        f"the bundle's model can't be built: {problem}", where=_WHERE, remedy=f"{remedy} {known or ''}".rstrip()
    )


def take_apart(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and buffers by name, each once, and by which names they stand a second time."""
    weights: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    known: dict[tuple[Any, ...], str] = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in known:
            shared[name] = known[key]
        else:
            weights[name] = tensor
            known[key] = name
    return weights, shared


def build(
    blueprint: Blueprint, weights: Mapping[str, Tensor], shared: Mapping[str, str], modules: Mapping[str, Factory]
) -> nn.Module:
    """The network with its weights, in evaluation mode.

    A registered model is built within bounds that follow from the weights, so that a hostile description allocates
    little. Raises BundleError where they differ, IntegrityError where they are no fitted trees, ComponentError for a
    module that the caller did not pass.
    """
    change = blueprint.compressed or Compressed()
    weights = unpack(weights, change.packed)
    if shared.keys() & weights.keys() or not set(shared.values()) <= weights.keys():
        raise BundleError("`shared` does not fit the weights", where=_WHERE)
    complete = {**weights, **{name: weights[other] for name, other in shared.items()}}
    with undisturbed():
        model = _own(blueprint, modules) if blueprint.module is not None else _registered(blueprint, complete)
    restructure(model, change)
    _compare(model, complete)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            # The weights' dtype is the model's: bf16 bundles stay bf16.
            if tensor.dtype != complete[name].dtype:
                _owner(model, name).data = complete[name].clone()
            else:
                tensor.copy_(complete[name])
    if isinstance(model, Classic):
        model.check()
    return model.eval()


def dtype_name(model: nn.Module) -> str:
    """The dtype of the weights ("float32"), which says how exact the outputs can be."""
    return next((str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()), "float32")


def _own(blueprint: Blueprint, modules: Mapping[str, Factory]) -> nn.Module:
    name = blueprint.module
    assert name is not None
    if name not in modules:
        passed = ", ".join(modules) or "none"
        raise ComponentError(
            f"the bundle needs the module {name!r}, and it was not passed",
            where=_WHERE,
            remedy=f"load(path, modules={{{name!r}: function_that_builds_it}}). Passed: {passed}.",
        )
    model = modules[name]()
    return Wrapped(model, blueprint.signature) if blueprint.wrapped else model


def _registered(blueprint: Blueprint, weights: Mapping[str, Tensor]) -> nn.Module:
    assert blueprint.options is not None
    try:
        with bounded(len(weights), sum(t.nbytes for t in weights.values())):
            model: nn.Module = REGISTRY.build("model", blueprint.options, blueprint.signature)
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise BundleError(f"the model can't be built: {str(error)[:300]}", where=_WHERE) from error
    return model


def _owner(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    owner: Tensor = getattr(model.get_submodule(path), leaf)
    return owner


def _compare(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    expected = model.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has unknown", weights.keys() - expected.keys()),
    ):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise BundleError(f"it {problem} weights: {listed[:400]}", where="weights.safetensors")
    for name, tensor in expected.items():
        if tensor.shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)}, the model has {tuple(tensor.shape)}"
            raise BundleError(f"{name[:100]!r} has shape {shapes}", where="weights.safetensors")
        if tensor.dtype != weights[name].dtype and not (
            tensor.is_floating_point() and weights[name].is_floating_point()
        ):
            raise BundleError(
                f"{name[:100]!r} is {weights[name].dtype}, not {tensor.dtype}", where="weights.safetensors"
            )
