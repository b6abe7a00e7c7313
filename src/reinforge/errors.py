"""Every error Reinforge raises on purpose: what is wrong, where, and how to mend it."""

from __future__ import annotations

from reinforge.messages import _


class ReinforgeError(Exception):
    """Base of all deliberate errors.

    `problem` is one sentence; `where` names file, line, key, row or component; `remedy` says what to do.
    `exit_status` is what a command ends with: 2 for a user's mistake, 1 for a fault of ours or of the machine.
    """

    exit_status = 2

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.problem}" if self.where else self.problem
        return f"{head}\n  {self.remedy}" if self.remedy else head


class RecipeError(ReinforgeError):
    """A recipe, an override or an option is wrong."""


class DataError(ReinforgeError):
    """Input data break the schema or a stated policy."""


class ComponentError(ReinforgeError):
    """A name is not in its registry, or a component breaks its contract."""


class EnvironmentFault(ReinforgeError):
    """An environment breaks Gymnasium's contract. `trace` is the traceback of what it raised itself, as text."""

    def __init__(
        self, problem: str, *, where: str | None = None, remedy: str | None = None, trace: str | None = None
    ) -> None:
        self.trace = trace
        super().__init__(problem, where=where, remedy=remedy)

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.trace.rstrip()}" if self.trace else super().__str__()


class MissingExtra(ReinforgeError):
    """An optional dependency is not installed; the remedy is the one command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        text = _("this needs the package {package!r}").format(package=package)
        super().__init__(text, remedy=f"pip install 'reinforge[{extra}]'")


class StorageError(ReinforgeError):
    """A folder could not be written or read: full disk, no permission, not there."""

    exit_status = 1


class PathError(StorageError):
    """A path that was asked for can't be it: not there, there already, of another kind, or not permitted."""

    exit_status = 2


class IntegrityError(StorageError):
    """Stored content differs from its manifest, or is malformed or hostile. Nothing of it was used."""


class CheckpointError(IntegrityError):
    """A checkpoint is damaged or does not belong to this run."""


class BundleError(IntegrityError):
    """A bundle is damaged, unsupported, or does not reproduce its golden outputs."""


class TrainingWarning(RuntimeWarning):
    """What goes wrong with a training that goes on: symptom with cause, and remedy. A run keeps it."""


class TrainingDiverged(ReinforgeError):
    """Several updates in a row had non-finite gradients; the last good checkpoint is named."""

    exit_status = 1
