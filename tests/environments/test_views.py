"""What options change of what a policy sees and of the rewards it learns from."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reinforge.bundle.observation_form import ObservationForm
from reinforge.core.tree import pack, unpack
from reinforge.environments.build import build, examples, is_native, schema, signature, single
from reinforge.environments.images import Scaling, image_shape
from reinforge.environments.options import EnvironmentOptions, ImageOptions, RewardOptions
from reinforge.environments.rewards import RewardScaling
from reinforge.environments.spaces import Codec
from reinforge.environments.spaces import schema as schema_of
from reinforge.environments.vector import NativeEnvironments
from reinforge.errors import EnvironmentFault
from tests.environments.probes import Counter

sizes = st.integers(1, 9)


class Camera(gym.Env[Any, Any]):
    """Random colours, (height, width, 3) bytes, beside a speed."""

    def __init__(self, shape: tuple[int, ...] = (21, 16, 3)) -> None:
        boxes = {"camera": gym.spaces.Box(0, 255, shape, np.uint8), "speed": gym.spaces.Box(-1, 1, (2,), np.float32)}
        self.observation_space = gym.spaces.Dict(boxes)
        self.action_space = gym.spaces.Discrete(2)

    def _observe(self) -> dict[str, Any]:
        shape = self.observation_space["camera"].shape
        return {
            "camera": self.np_random.integers(0, 256, shape, np.uint8),
            "speed": self.np_random.uniform(-1, 1, 2).astype(np.float32),
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        return self._observe(), 1.0, bool(self.np_random.random() < 0.3), False, {}


gym.register("tests/Camera-v0", Camera)
gym.register("tests/Counter-v0", lambda: Counter(((5, True, False),)), max_episode_steps=4)


def _mean(image: Any, height: int, width: int) -> np.ndarray[Any, Any]:
    """Area means of one channel by exact fractions, half rounded up."""
    rows, columns = image.shape
    out = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            total, area = Fraction(0), Fraction(rows * columns, height * width)
            for i in range(rows):
                for j in range(columns):
                    down = min(Fraction((y + 1) * rows, height), i + 1) - max(Fraction(y * rows, height), i)
                    across = min(Fraction((x + 1) * columns, width), j + 1) - max(Fraction(x * columns, width), j)
                    total += max(down, 0) * max(across, 0) * int(image[i, j])
            out[y, x] = int(total / area + Fraction(1, 2))
    return out


@settings(max_examples=40, deadline=None)
@given(sizes, sizes, sizes, sizes, st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_a_new_pixel_is_the_mean_of_its_area(h: int, w: int, height: int, width: int, channels: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, channels, h, w), dtype=np.uint8)
    found = Scaling((channels, h, w), (channels, height, width))(images)
    expected = [[_mean(channel, height, width) for channel in image] for image in images]
    assert np.array_equal(found, expected)


def test_scaling_and_grey_agree_with_pillow_up_to_its_rounding() -> None:
    image = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    grey = Scaling((3, 210, 160), (1, 210, 160))(np.moveaxis(image, -1, 0)[None])[0, 0]
    theirs = Image.fromarray(image).convert("L")
    assert np.abs(grey.astype(int) - np.asarray(theirs)).max() <= 1
    small = Scaling((3, 210, 160), (1, 42, 40))(np.moveaxis(image, -1, 0)[None])[0, 0]
    boxed = np.asarray(Image.fromarray(grey).resize((40, 42), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - boxed).max() <= 1


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(9, 7, 3), (3, 9, 7), (9, 7), (9, 7, 1), (12, 6, 4)]),
    st.none() | st.tuples(sizes, sizes), st.booleans(), st.integers(0, 999),
)  # fmt: skip
def test_a_raw_image_given_to_a_bundle_becomes_the_tensors_that_were_learned_from(
    shape: tuple[int, ...], size: tuple[int, int] | None, grey: bool, seed: int
) -> None:
    """Through the environment's codec, in a batch; and through the bundle's form, row by row and as arrays."""
    images, environment = ImageOptions(size=size, grey=grey), Camera(shape)
    spaces = environment.observation_space, environment.action_space, "camera"
    codec = Codec(*spaces, None, images)
    form = ObservationForm(schema_of(*spaces), codec.signature)
    environment.reset(seed=seed)
    raw = [environment._observe() for _ in range(3)]
    learned = codec.gathered(raw, "now")
    channels, height, width = image_shape(shape) or ()
    seen = (1 if grey and channels > 1 else channels, *(size or (height, width)))
    assert learned["camera"].shape == (3, *seen)
    assert codec.signature.inputs["camera"].shape == seen
    for index, row in enumerate(raw):
        alone = form.inputs([codec.row(row, "now")])
        for name, value in learned.items():
            assert torch.equal(alone[name][0], torch.from_numpy(value)[index])
    batch = form.table_inputs({name: np.stack([row[name] for row in raw]) for name in raw[0]})
    assert torch.equal(batch["camera"], torch.from_numpy(learned["camera"]))


def test_images_are_scaled_in_every_vectorisation_and_examples_are_raw() -> None:
    asked = {"id": "tests/Camera-v0", "count": 2, "images": {"size": (8, 6), "grey": True}}
    options = EnvironmentOptions.model_validate(asked)
    assert signature(options).inputs["camera"].shape == (1, 8, 6)
    found = []
    for how in ("synchronous", "processes"):
        environments = build(options.model_copy(update={"vectorization": how}), seed=1)
        found.append(environments.reset()["camera"])
        environments.close()
    assert found[0].shape == (2, 1, 8, 6)
    assert np.array_equal(*found)
    rows = examples(options, 7, seed=3)
    assert rows == examples(options, 7, seed=3)
    assert np.shape(rows[0]["camera"]) == (21, 16, 3)
    form = ObservationForm(schema(options), signature(options))
    assert form.inputs(rows)["camera"].shape == (7, 1, 8, 6)


def test_frames_are_skipped_and_the_time_limit_counts_what_the_policy_does() -> None:
    """The probe's step t pays t, and its episode ends after 5; registered with a limit of 4."""

    def episode(**options: Any) -> list[tuple[float, bool, bool]]:
        environment = single(EnvironmentOptions(id="tests/Counter-v0", **options))
        environment.reset(seed=0)
        steps = []
        while not (steps and any(steps[-1][1:])):
            _, reward, terminated, truncated, _ = environment.step(0)
            steps.append((float(reward), bool(terminated), bool(truncated)))
        return steps

    assert episode() == [(1, False, False), (2, False, False), (3, False, False), (4, False, True)]
    assert episode(frame_skip=3) == [(6, False, False), (4, False, True)]
    assert episode(time_limit=9, frame_skip=3) == [(6, False, False), (9, True, False)]
    assert episode(time_limit=1, frame_skip=3) == [(6, False, True)]
    assert episode(time_limit=2) == [(1, False, False), (2, False, True)]


def test_a_native_environment_takes_the_time_limit_and_does_not_skip() -> None:
    options = EnvironmentOptions(id="CartPole-v1", count=3, time_limit=4)
    environments = build(options, seed=0)
    assert isinstance(environments, NativeEnvironments)
    environments.reset()
    steps = [environments.step(np.array([time % 2] * 3)) for time in range(4)]
    assert [step.truncated.all() for step in steps] == [False, False, False, True]
    skipping = options.model_copy(update={"frame_skip": 2})
    assert not is_native(skipping)
    with pytest.raises(EnvironmentFault, match="skip"):
        build(skipping.model_copy(update={"vectorization": "native"}), seed=0)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_sum_so_far() -> None:
    """Against a list of all sums; steps that only began an episode count nowhere."""
    generator = np.random.default_rng(3)
    options = RewardOptions(scale=0.5, normalise=True, gamma=0.9, clip=1.5)
    scaling, sums, running = RewardScaling(options, 4), [], np.zeros(4)
    for _ in range(50):
        reward, valid = generator.normal(2, 5, 4).astype(np.float32), generator.random(4) < 0.8
        done = valid & (generator.random(4) < 0.2)
        for index in np.flatnonzero(valid):
            running[index] = 0.9 * running[index] + 0.5 * float(reward[index])
            sums.append(running[index])
        running[done] = 0
        deviation = np.std(sums) if len(sums) > 1 else 1.0
        expected = np.clip(0.5 * reward / deviation, -1.5, 1.5)
        found = scaling(reward, done, valid)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_scale_of_rewards_goes_on_from_its_state() -> None:
    generator, options = np.random.default_rng(0), RewardOptions(normalise=True)
    one, other = RewardScaling(options, 3), RewardScaling(options, 3)
    steps = [(generator.normal(size=3), generator.random(3) < 0.1, np.ones(3, np.bool_)) for _ in range(40)]
    for step in steps[:20]:
        one(*step)
    packed = pack(one.state_dict())
    other.load_state_dict(unpack(packed.skeleton, packed.tensors))
    for step in steps[20:]:
        assert np.array_equal(one(*step), other(*step))


def test_rewards_are_as_they_are_unless_asked() -> None:
    scaling, reward = RewardScaling(RewardOptions(), 2), np.array([3.0, -4.0], np.float32)
    assert not scaling.active
    assert scaling(reward, np.zeros(2, np.bool_), np.ones(2, np.bool_)) is reward
