"""What becomes of a run whose environment fails."""

from __future__ import annotations

import shlex

from reinforge.engine.distributed import World
from reinforge.engine.loop import Engine
from reinforge.errors import EnvironmentFault
from reinforge.messages import _
from reinforge.recipe.user_code import loaded_user_code
from reinforge.workflow.run import Run


def rescued(fault: EnvironmentFault, run: Run, engine: Engine, world: World) -> EnvironmentFault:
    """The fault; where something was learned before it, that is saved, and the fault says how to go on.

    The run's status keeps the fault with its traceback. Resumed, all episodes begin anew.
    """
    if not engine.rescue():
        return fault
    if world.main:
        run.write_status(state="interrupted", reason="fault", fault=str(fault))
    files = [f"--use={file}" for file in loaded_user_code()]
    command = shlex.join(["reinforge", "train", "--resume", str(run.folder), *files])
    saved = _("What was learned in {n} updates is saved. Go on with: {command}")
    said = saved.format(n=engine.clock.updates, command=command)
    remedy = f"{fault.remedy} {said}" if fault.remedy else said
    return EnvironmentFault(fault.problem, where=fault.where, remedy=remedy, trace=fault.trace)
