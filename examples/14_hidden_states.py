"""States that are not seen: the Kalman smoother on a record, and acting on observations (LQG).

The mass of the model `double_integrator`, whose position alone is measured, with an error of 30 centimetres.
"""

import torch

import cai

NUM = 4_000
mass = cai.load_model("double_integrator", noise=1.0, error=1.0, temperature=0.01).replace(
    initial=cai.factors.Gaussian([-1.0, 0.0], 0.04 * torch.eye(2)),
    observation=cai.factors.LinearGaussianObservation([[1.0, 0.0]], [[0.09]]),
)


def spread(values: torch.Tensor) -> str:
    """Mean, and its standard error."""
    return f"{values.mean():8.3f} +- {values.std() / len(values) ** 0.5:.3f}"


def returns(episodes: cai.Trajectories) -> torch.Tensor:
    """Sums of rewards, the terminal one included."""
    return episodes.returns() + mass.terminal_reward(episodes.states[:, -1])


# Acting: plan as if the state were seen, and put the filter's mean in its place.
plan = cai.infer(mass, cai.SoftValueIteration())
hidden = cai.rollout(mass, cai.plan.BeliefPolicy(plan), NUM, seed=0)
seen = cai.rollout(mass.replace(observation=None), plan, NUM, seed=0)
print("return if the state is seen:   ", spread(returns(seen)), f"(exact {plan.expected_return:.3f})")
print("return acting on observations: ", spread(returns(hidden)))

# What not seeing costs, by the separation principle: sum_t tr(K' H_uu K P_t) / 2, P_t the filter's covariance.
record = mass.condition(observations=hidden.observations, actions=hidden.actions)
filtered, smoothed = cai.infer(record, cai.KalmanFilter()), cai.infer(record, cai.KalmanSmoother())
cost = 0.0
for t in range(mass.horizon):
    at_units = plan.policy(torch.eye(2), t).mean - plan.policy(torch.zeros(2), t).mean
    curvature = mass.temperature * plan.policy(torch.zeros(2), t).precision_matrix
    cost += 0.5 * torch.trace(at_units @ curvature @ at_units.T @ filtered.state_marginals.covariance_matrix[t, 0])
print(f"exact, by the separation principle: {plan.expected_return - cost:.3f}")

# Looking back: where was it, given all measurements?
for name, answer in (("filter", filtered), ("smoother", smoothed)):
    error = (answer.state_marginals.mean.movedim(0, 1) - hidden.states).square().mean((0, 1)).sqrt()
    stated = answer.state_marginals.variance.mean((0, 1)).sqrt()
    print(
        f"{name:9} error of position {error[0]:.4f} (stated {stated[0]:.4f}), of speed {error[1]:.4f} ({stated[1]:.4f})"
    )
print("measurements alone:      ", f"{(hidden.observations - hidden.states[..., :1]).square().mean().sqrt():.4f}")

# The likelihood of the measurements finds the error of the instrument.
for deviation in (0.2, 0.3, 0.4):
    guess = cai.factors.LinearGaussianObservation([[1.0, 0.0]], [[deviation**2]])
    answer = cai.infer(record.replace(observation=guess), cai.KalmanFilter())
    print(f"log p(y | u) at an error of {deviation} m: {answer.log_evidence.mean():.3f} nats an episode")
