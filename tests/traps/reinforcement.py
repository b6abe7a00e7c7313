"""The traps of reinforcement learning: what goes wrong in silence, which tests notice, and the slip that springs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slip:
    """A change of one place in a module below `src/reinforge` that springs a trap, and the test that must then fail."""

    module: str
    old: str
    new: str
    test: str


TRAPS: dict[str, tuple[Slip, ...]] = {
    "a terminal state cuts the bootstrap": (
        Slip(
            "objectives/returns.py",
            "gamma * next_value * (~terminated) - value",
            "gamma * next_value - value",
            "tests/objectives/test_returns.py::test_terminated_cuts_the_bootstrap_and_done_cuts_the_lambda_recursion",
        ),
        Slip(
            "objectives/returns.py",
            "(gamma ** length.to(rewards.dtype)) * (~terminated)",
            "(gamma ** length.to(rewards.dtype))",
            "tests/objectives/test_returns.py::test_n_step_sums_bootstrap_by_gamma_to_the_power_of_their_length",
        ),
    ),
    "an end of either kind cuts the sum over lambda": (
        Slip(
            "objectives/returns.py",
            "(~(terminated | truncated) & valid)",
            "(~terminated & valid)",
            "tests/objectives/test_returns.py::test_terminated_cuts_the_bootstrap_and_done_cuts_the_lambda_recursion",
        ),
    ),
    "a truncated episode bootstraps from its true final observation": (
        Slip(
            "objectives/ppo.py",
            'cut = tensor(rollout, "truncated").clone()',
            'cut = torch.zeros_like(tensor(rollout, "truncated"))',
            "tests/objectives/test_reinforcement.py::test_advantages_bootstrap_from_the_true_final_observation",
        ),
        Slip(
            "environments/synchronous.py",
            "observation = copied(final)",
            "observation = final",
            "tests/environments/test_vector.py::test_every_valid_transition_is_a_real_one_in_each_autoreset_mode",
        ),
        Slip(
            "sources/buffer.py",
            'if rows["ended"].any():',
            "if False:",
            "tests/sources/test_buffer.py::test_batches_are_those_of_a_buffer_that_keeps_everything",
        ),
    ),
    "of both flags the terminal one wins": (
        Slip(
            "environments/vector.py",
            'self.count, "truncated", moment) & ~terminated',
            'self.count, "truncated", moment)',
            "tests/environments/test_vector.py::test_every_valid_transition_is_a_real_one_in_each_autoreset_mode",
        ),
    ),
    "the step that only resets is not learned from": (
        Slip(
            "environments/vector.py",
            "valid = ~began if began.any() else self._everything",
            "valid = self._everything",
            "tests/environments/test_vector.py::test_every_valid_transition_is_a_real_one_in_each_autoreset_mode",
        ),
        Slip(
            "environments/vector.py",
            "valid = ~began if began.any() else self._everything",
            "valid = self._everything",
            "tests/sources/test_replay.py::test_every_sampled_transition_is_real_with_a_native_next_step_environment",
        ),
        Slip(
            "objectives/returns.py",
            "(~terminated) - value) * valid",
            "(~terminated) - value)",
            "tests/objectives/test_returns.py::test_a_step_that_only_begins_an_episode_counts_nothing",
        ),
    ),
    "with same-step autoreset the true observation is under final_obs": (
        Slip(
            "environments/vector.py",
            "put(final, ended, _finals(self.codec, given, ended, moment))",
            "pass",
            "tests/environments/test_vector.py::test_every_valid_transition_is_a_real_one_in_each_autoreset_mode",
        ),
    ),
    "n-step returns stop at every end": (
        Slip(
            "sources/buffer.py",
            'self._latest[environments] = np.where(rows["ended"], -1, numbers)',
            "self._latest[environments] = numbers",
            "tests/sources/test_replay.py::test_n_step_stops_at_every_end_and_at_the_write_head",
        ),
        Slip(
            "sources/buffer.py",
            'self._latest[environments] = np.where(rows["ended"], -1, numbers)',
            'self._latest[environments] = np.where(rows["terminated"], -1, numbers)',
            "tests/sources/test_buffer.py::test_batches_are_those_of_a_buffer_that_keeps_everything",
        ),
    ),
    "n-step returns bootstrap by gamma to the power of their length": (
        Slip(
            "objectives/returns.py",
            "(gamma ** length.to(rewards.dtype))",
            "gamma * torch.ones_like(rewards[:, 0])",
            "tests/objectives/test_returns.py::test_n_step_sums_bootstrap_by_gamma_to_the_power_of_their_length",
        ),
    ),
    "the write head of the ring is guarded": (
        Slip(
            "sources/buffer.py",
            "following = environments + self._waiting.start",
            "following = (places + self.count) % self.length",
            "tests/sources/test_replay.py::test_n_step_stops_at_every_end_and_at_the_write_head",
        ),
    ),
    "replay stores raw observations": (
        Slip(
            "sources/replay.py",
            "numbers = self.buffer.add(observation, action, transition)",
            "numbers = self.buffer.add({k: v / 2 for k, v in observation.items()}, action, transition)",
            "tests/sources/test_replay.py::test_the_buffer_holds_raw_observations_and_actions_in_learner_space",
        ),
    ),
    "one action space in the buffer": (
        Slip(
            "sources/replay.py",
            "numbers = self.buffer.add(observation, action, transition)",
            "numbers = self.buffer.add(observation, policy.scale(torch.as_tensor(action)).numpy(), transition)",
            "tests/sources/test_replay.py::test_the_buffer_holds_raw_observations_and_actions_in_learner_space",
        ),
    ),
    "normalisers stand still at evaluation": (
        Slip(
            "models/normaliser.py",
            "return ((x - self.offset) * self.factor).clamp(-_CLIP, _CLIP)",
            "self.count += 1; return ((x - self.offset) * self.factor).clamp(-_CLIP, _CLIP)",
            "tests/evaluation/test_episodes.py::test_observation_statistics_are_frozen_at_evaluation",
        ),
    ),
    "normalisers travel with the weights": (
        Slip(
            "models/normaliser.py",
            'self.register_buffer("offset", torch.zeros(shape))',
            'self.register_buffer("offset", torch.zeros(shape), persistent=False)',
            "tests/models/test_policy.py::test_statistics_never_change_in_forward_and_travel_with_the_weights",
        ),
    ),
    "the scaling of actions is part of the model": (
        Slip(
            "models/policy.py",
            "return self.low + (action.clamp(-1, 1) + 1) * (0.5 * (self.high - self.low))",
            "return action",
            "tests/models/test_policy.py::test_continuous_policies_give_actions_in_the_environments_units",
        ),
    ),
    "prioritised weights are on every loss": (
        Slip(
            "objectives/dqn.py",
            "(each * weight).sum()",
            "each.sum()",
            "tests/objectives/test_reinforcement.py::test_dqn_loss_is_the_textbooks",
        ),
        Slip(
            "objectives/dqn.py",
            "(each * weight).sum()",
            "each.sum()",
            "tests/objectives/test_dqn_family.py::test_the_loss_of_every_combination_is_the_papers",
        ),
        Slip(
            "objectives/errors.py",
            "each = weighted(errors.square().sum(0), weight)",
            "each = errors.square().sum(0)",
            "tests/objectives/test_reinforcement.py::test_sac_losses_are_the_papers",
        ),
    ),
    "new transitions get the highest priority": (
        Slip(
            "sources/replay.py",
            "self.highest**self.options.alpha)",
            "1.0)",
            "tests/sources/test_replay.py::test_new_transitions_get_the_highest_priority_and_dead_ones_none",
        ),
    ),
    "beta rises to one": (
        Slip(
            "sources/replay.py",
            "beta = self.options.beta + ",
            "beta = self.options.beta + 0 * ",
            "tests/sources/test_replay.py::test_prioritised_probabilities_and_weights_are_those_of_the_paper",
        ),
    ),
    "the target's period is counted in updates": (
        Slip(
            "objectives/dqn.py",
            "if clock.updates % self.options.period == 0:",
            "if clock.steps % self.options.period == 0:",
            "tests/objectives/test_reinforcement.py::test_the_target_period_counts_updates_and_polyak_averages",
        ),
    ),
    "epsilon is drawn for each environment": (
        Slip(
            "sources/collector.py",
            "chosen = self.generator.random(self.count) < epsilon",
            "chosen = np.full(self.count, self.generator.random() < epsilon)",
            "tests/sources/test_replay.py::test_random_actions_are_drawn_for_each_copy_by_itself",
        ),
    ),
    "PPO normalises the advantages of each update, and not a single one": (
        Slip(
            "objectives/ppo.py",
            "return torch.where(n > 1, normalised, advantage)",
            "return normalised",
            "tests/objectives/test_reinforcement.py::"
            "test_advantages_are_normalised_over_the_update_however_it_is_split_and_not_at_size_one",
        ),
        Slip(
            "objectives/ppo.py",
            "return torch.where(n > 1, normalised, advantage)",
            "return advantage",
            "tests/objectives/test_reinforcement.py::"
            "test_advantages_are_normalised_over_the_update_however_it_is_split_and_not_at_size_one",
        ),
    ),
    "PPO begins orthogonally, with gains sqrt 2, 0.01 and 1": (
        Slip(
            "models/actor_critic.py",
            "Network((width, self.output.size), options.activation, 0.01)",
            "Network((width, self.output.size), options.activation, 1.0)",
            "tests/models/test_policy.py::test_orthogonal_gains_are_those_of_the_traps",
        ),
    ),
    "PPO's Adam has an epsilon of 1e-5": (
        Slip(
            "objectives/ppo.py",
            '{"kind": "adam", "eps": 1e-5}',
            '{"kind": "adam"}',
            "tests/engine/test_optimizers.py::test_an_objective_states_its_default",
        ),
    ),
    "the clipped action goes to the environment, the unclipped one to the log-prob": (
        Slip(
            "sources/rollout.py",
            'columns["action"][:, time] = action',
            'columns["action"][:, time] = action.clip(-1, 1)',
            "tests/sources/test_rollout.py::test_the_action_is_kept_as_it_was_drawn_and_taken_within_the_bounds",
        ),
    ),
    "SAC corrects for tanh in the stable form": (
        Slip(
            "models/distributions.py",
            "2 * (_LOG_2 - latent - functional.softplus(-2 * latent))",
            "(1 - latent.tanh().square() + 1e-6).log()",
            "tests/models/test_policy.py::test_tanh_gaussian_log_prob_is_exact_where_tanh_saturates",
        ),
    ),
    "the scale of actions is not in the log-prob, nor in the target entropy": (
        Slip(
            "models/distributions.py",
            "- correction.sum(-1)",
            "- correction.sum(-1) - 1.6",
            "tests/models/test_policy.py::test_scaling_is_not_in_the_log_prob",
        ),
        Slip(
            "objectives/sac.py",
            "self.target_entropy = -float(output.size)",
            "self.target_entropy = sum(math.log(h - l) for l, h in zip(output.low, output.high)) - float(output.size)",
            "tests/objectives/test_reinforcement.py::test_the_target_entropy_is_minus_the_dimensions_in_learner_space",
        ),
    ),
    "no gradient flows into the target": (
        Slip(
            "objectives/dqn.py",
            "self.target = copy.deepcopy(model).requires_grad_(False)",
            "self.target = model",
            "tests/objectives/test_reinforcement.py::test_no_gradient_flows_into_the_target",
        ),
    ),
    "evaluation has episodes of its own, from its own seeds": (
        Slip(
            "evaluation/episodes.py",
            "seeds.derive(self.seed, self.name, which))",
            "seeds.derive(self.seed))",
            "tests/evaluation/test_episodes.py::test_each_evaluation_has_fresh_episodes_and_seeds_matter",
        ),
    ),
    "evaluation is deterministic unless stated": (
        Slip(
            "evaluation/episodes.py",
            "generator if self.stochastic else None)",
            "generator)",
            "tests/evaluation/test_episodes.py::test_an_evaluation_is_greedy_unless_stated",
        ),
    ),
    "evaluation plays whole episodes, long ones as often as short ones": (
        Slip(
            "evaluation/episodes.py",
            "np.flatnonzero(done & (quota > 0))",
            "np.flatnonzero(done)",
            "tests/evaluation/test_episodes.py::test_every_copy_plays_its_share_of_whole_episodes",
        ),
    ),
    "what is reported over seeds is the interquartile mean": (
        Slip(
            "evaluation/seeds.py",
            "cut = n // 4",
            "cut = 0",
            "tests/evaluation/test_seeds.py::test_the_interquartile_mean_is_scipys_trimmed_one",
        ),
    ),
    "the ratio of updates to steps is one number at any number of environments": (
        Slip(
            "sources/replay.py",
            "self._allowance += len(numbers) * options.updates_per_step",
            "self._allowance += options.updates_per_step",
            "tests/sources/test_replay.py::test_the_ratio_of_updates_to_steps_is_one_number_at_any_number_of_copies",
        ),
    ),
    "hindsight's goals come from the row's own episode and not from before it": (
        Slip(
            "sources/hindsight.py",
            "order = (first + steps) % self._order.shape[1]",
            "order = (first + steps + 1) % self._order.shape[1]",
            "tests/sources/test_hindsight.py::test_batches_are_those_of_relabelling_by_hand",
        ),
        Slip(
            "sources/hindsight.py",
            "ahead = newest - first",
            "ahead = newest - first + 2",
            "tests/sources/test_hindsight.py::test_goals_are_drawn_uniformly_from_what_is_to_come",
        ),
    ),
    "a relabelled row has the reward and the end of its new goal": (
        Slip(
            "sources/hindsight.py",
            "rewards[chosen] = paid.reshape(steps.shape)",
            "pass",
            "tests/sources/test_hindsight.py::test_batches_are_those_of_relabelling_by_hand",
        ),
        Slip(
            "sources/hindsight.py",
            "ended[chosen] = terminated.any(1)",
            "pass",
            "tests/sources/test_hindsight.py::test_batches_are_those_of_relabelling_by_hand",
        ),
    ),
}
