"""Modules under any name, whatever it contains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn


class Named(nn.Module):
    """Submodules by the name of a field.

    torch's ModuleDict refuses names that contain a dot or that a module uses itself ("type", "keys"), which columns of
    a table may well have. Here those are escaped, in parameter names alone.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name, module in modules.items():
            self.add_module(self._key(name), module)

    def _key(self, name: str) -> str:
        escaped = name.replace("%", "%25").replace(".", "%2E")
        return escaped + "%" if not escaped or hasattr(self, escaped) else escaped

    def __getitem__(self, name: str) -> nn.Module:
        return dict(self.items())[name]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def put(self, name: str, module: nn.Module) -> None:
        """Put a module in the place of the one of that name."""
        self._modules[list(self._modules)[self.names.index(name)]] = module

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Names and modules, in their order."""
        # From the registered modules, so that a module put in another's place is the one that is found.
        return zip(self.names, self._modules.values())  # type: ignore[arg-type]
