"""Environments from their options."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.processes import ProcessEnvironments
from reinforge.environments.spaces import Codec
from reinforge.environments.spaces import signature as signature_of
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments, NativeEnvironments
from reinforge.errors import EnvironmentFault
from reinforge.recipe.user_code import load_user_code, loaded_user_code
from reinforge.schema.signature import Signature


def build(options: EnvironmentOptions, *, seed: int, count: int | None = None) -> Environments:
    """`count` copies (the options' own where None), whose episodes come from `seed`. Raises EnvironmentFault where the
    name is unknown, a package is missing or a space is not supported."""
    where = f"environment {options.id!r}"
    spec = _spec(options)
    copies = options.count if count is None else count
    native = is_native(options)
    keywords: dict[str, Any] = dict(options.options)
    if options.vectorization == "native" and not native:
        raise EnvironmentFault("it has no vectorised form", where=where, remedy="Set vectorization: auto.")
    # Gymnasium's own checker would look at every step; the codec does, and says where.
    try:
        if native:
            vector = gym.make_vec(spec, num_envs=copies, vectorization_mode="vector_entry_point", **keywords)
            return NativeEnvironments(vector, seed, where, options.inputs)
        if options.vectorization == "processes":
            observation, action, _ = spaces(options)
            make = partial(_copies, options, seed, tuple(loaded_user_code()))
            return ProcessEnvironments(make, Codec(observation, action, where, options.inputs), copies, where)
        return _copies(options, seed, (), 0, copies)
    except (gym.error.Error, TypeError, ImportError) as error:
        raise EnvironmentFault(
            f"it can't be made: {error}", where=where, remedy="Check its options and the packages it needs."
        ) from error


def _copies(
    options: EnvironmentOptions, seed: int, files: tuple[str, ...], first: int, count: int
) -> SynchronousEnvironments:
    """Copies `first` to `first + count`, in a process that may yet have to import the user's `files`."""
    load_user_code(files)
    spec, keywords = _spec(options), dict[str, Any](options.options)
    return SynchronousEnvironments(
        lambda: gym.make(spec, disable_env_checker=True, **keywords),
        count, seed, f"environment {options.id!r}", options.inputs, first,
    )  # fmt: skip


def is_native(options: EnvironmentOptions) -> bool:
    """Whether these options give a vectorised environment, which costs little more for many copies than for one."""
    spec = _spec(options)
    # A wrapper in the specification would be lost: the vectorised form knows nothing of it.
    offered = spec.vector_entry_point is not None and not spec.additional_wrappers
    return offered and options.vectorization in ("auto", "native")


def spaces(options: EnvironmentOptions) -> tuple[gym.Space[Any], gym.Space[Any], str]:
    """The observation space, the action space, and what to call the environment in an error."""
    keywords: dict[str, Any] = dict(options.options)
    environment = gym.make(_spec(options), disable_env_checker=True, **keywords)
    try:
        return environment.observation_space, environment.action_space, f"environment {options.id!r}"
    finally:
        environment.close()


def signature(options: EnvironmentOptions) -> Signature:
    """What a policy for this environment takes and gives."""
    return signature_of(*spaces(options), options.inputs)


def _spec(options: EnvironmentOptions) -> EnvSpec:
    try:
        return gym.spec(options.id)
    except (gym.error.Error, ImportError) as error:
        raise EnvironmentFault(
            str(error).splitlines()[0],
            where=f"environment {options.id!r}",
            remedy="Check the name (python -c 'import gymnasium; gymnasium.pprint_registry()') and its package; "
            "--use FILE.py brings environments of your own.",
        ) from error
