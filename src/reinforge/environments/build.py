"""Environments from their options."""

from __future__ import annotations

import traceback
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from reinforge.core.seeds import derive
from reinforge.environments.catalogue import missing, package_of, require
from reinforge.environments.options import EnvironmentOptions
from reinforge.environments.processes import ProcessEnvironments
from reinforge.environments.spaces import Codec
from reinforge.environments.spaces import schema as schema_of
from reinforge.environments.spaces import signature as signature_of
from reinforge.environments.synchronous import SynchronousEnvironments
from reinforge.environments.vector import Environments, NativeEnvironments
from reinforge.environments.wrappers import FrameSkip
from reinforge.errors import EnvironmentFault
from reinforge.recipe.user_code import load_user_code, loaded_user_code
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature


def build(options: EnvironmentOptions, *, seed: int, count: int | None = None) -> Environments:
    """`count` copies (the options' own where None), whose episodes come from `seed`. Raises EnvironmentFault where the
    name is unknown, a package is missing or a space is not supported."""
    where = f"environment {options.id!r}"
    spec = _spec(options)
    copies = options.count if count is None else count
    native = is_native(options)
    if options.vectorization == "native" and not native:
        raise EnvironmentFault(
            "it has no vectorised form" if options.frame_skip == 1 else "its vectorised form can't skip frames",
            where=where,
            remedy="Set vectorization: auto.",
        )
    if options.vectorization == "processes":
        codec = Codec(*spaces(options), options.inputs, options.images)
        return ProcessEnvironments(partial(_copies, options, seed, tuple(loaded_user_code())), codec, copies, where)
    if not native:
        return _copies(options, seed, (), 0, copies)
    keywords = dict[str, Any](options.options)
    if options.time_limit is not None:
        keywords["max_episode_steps"] = options.time_limit
    try:
        vector = gym.make_vec(spec, num_envs=copies, vectorization_mode="vector_entry_point", **keywords)
        return NativeEnvironments(vector, seed, where, options.inputs, options.images)
    except Exception as error:  # a user's environment may raise anything
        raise _unmade(options, error) from error


def _copies(
    options: EnvironmentOptions, seed: int, files: tuple[str, ...], first: int, count: int
) -> SynchronousEnvironments:
    """Copies `first` to `first + count`, in a process that may yet have to import the user's `files`."""
    load_user_code(files)
    where = f"environment {options.id!r}"
    return SynchronousEnvironments(lambda: single(options), count, seed, where, options.inputs, options.images, first)


def is_native(options: EnvironmentOptions) -> bool:
    """Whether these options give a vectorised environment, which costs little more for many copies than for one."""
    spec = _spec(options)
    # A wrapper in the specification would be lost: the vectorised form knows nothing of it.
    offered = spec.vector_entry_point is not None and not spec.additional_wrappers
    package = package_of(options.id)
    offered = offered and (package is None or package.native) and options.frame_skip == 1
    return offered and options.vectorization in ("auto", "native")


def spaces(options: EnvironmentOptions) -> tuple[gym.Space[Any], gym.Space[Any], str]:
    """The observation space, the action space, and what to call the environment in an error."""
    environment = single(options)
    try:
        return environment.observation_space, environment.action_space, f"environment {options.id!r}"
    finally:
        environment.close()


def single(options: EnvironmentOptions, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment, with its own or the stated time limit, and frames skipped; its observations are raw. Raises
    EnvironmentFault where making it fails."""
    spec, keywords = _spec(options), dict[str, Any](options.options)
    # Gymnasium's own checker would look at every step; the codec does, and says where.
    keywords |= {"disable_env_checker": True} | ({"render_mode": render_mode} if render_mode else {})
    if options.time_limit is not None:
        keywords["max_episode_steps"] = -1
    try:
        environment = gym.make(spec, **keywords)
    except Exception as error:  # a user's environment may raise anything
        raise _unmade(options, error) from error
    if options.frame_skip > 1:
        environment = FrameSkip(environment, options.frame_skip)
    if options.time_limit is not None:
        # Around the skipping, so that it counts what the policy does.
        environment = gym.wrappers.TimeLimit(environment, options.time_limit)
    return environment


def signature(options: EnvironmentOptions) -> Signature:
    """What a policy for this environment takes and gives."""
    return signature_of(*spaces(options), options.inputs, options.images)


def schema(options: EnvironmentOptions) -> Schema:
    """The same as typed fields; images as the environment gives them."""
    return schema_of(*spaces(options), options.inputs)


def examples(options: EnvironmentOptions, count: int, seed: int) -> list[dict[str, object]]:
    """Raw observations that random actions lead to, as rows for a bundle."""
    environment, where = single(options), f"environment {options.id!r}"
    codec = Codec(environment.observation_space, environment.action_space, where, options.inputs)
    environment.action_space.seed(derive(seed, "actions") % 2**32)
    rows: list[dict[str, object]] = []
    observation, moment = None, "in reset"
    try:
        while len(rows) < count:
            if observation is None:
                observation, _ = environment.reset(seed=derive(seed, "example", len(rows)) % 2**32)
            rows.append(codec.row(observation, moment))
            moment = "in step"
            observation, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
            if terminated or truncated:
                observation = None
    except EnvironmentFault:
        raise
    except Exception as error:  # a user's environment may raise anything
        raise codec.raised(error, moment) from error
    finally:
        environment.close()
    return rows


def _unmade(options: EnvironmentOptions, error: Exception) -> EnvironmentFault:
    """What making it failed by. A wrong option says enough; any other exception comes with its traceback."""
    remedy, trace = "Check its options.", None
    if isinstance(error, ImportError | gym.error.DependencyNotInstalled):
        remedy = f"pip install 'reinforge[{missing(options.id)}]'"
    elif not isinstance(error, TypeError | gym.error.Error):
        trace = "".join(traceback.format_exception(error))
    said = str(error) or type(error).__name__
    return EnvironmentFault(
        f"it can't be made: {said}", where=f"environment {options.id!r}", remedy=remedy, trace=trace
    )


def _spec(options: EnvironmentOptions) -> EnvSpec:
    require(options.id)
    try:
        return gym.spec(options.id)
    except (gym.error.Error, ImportError) as error:
        raise EnvironmentFault(
            str(error).splitlines()[0],
            where=f"environment {options.id!r}",
            remedy="Check the name (python -c 'import gymnasium; gymnasium.pprint_registry()') and its package; "
            "--use FILE.py brings environments of your own.",
        ) from error
