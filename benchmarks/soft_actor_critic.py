"""Soft actor-critic on Pendulum-v1: CPU seconds of a step against Stable-Baselines3 and a bare loop.

    python benchmarks/soft_actor_critic.py --peer-python PATH/TO/python      (with stable-baselines3 2.9.2)
    python benchmarks/soft_actor_critic.py                                   (without that peer)

A step is one of the environment and one update: actor and twin critics of 256 x 256 units, batches of 256, Adam at
0.001, a tuned temperature. Workers are processes of their own, of one thread, and take turns of 300 steps; what counts
is the CPU time of the process.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: Environment steps of one call.
STEPS = 100


def ours() -> None:
    """The library's, piece by piece as `cai.infer` takes them."""
    from worker import serve

    import cai

    graph = cai.from_gym("Pendulum-v1", discount=0.99).replace(action_prior=cai.factors.FlatPrior())
    method = cai.SoftActorCritic(num_steps=10**7, learning_rate=1e-3, temperature=cai.methods.TargetEntropy())
    method.accepts(graph)
    run = method.init(graph, 0)
    method.step(graph, run)
    serve(lambda: method.step(graph, run), calls=3, steps=STEPS, clock=time.process_time)


def bare() -> None:
    """The floor: the same arithmetic in a loop, with nothing checked, logged or kept."""
    import gymnasium
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional
    from worker import serve

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Twins(nn.Module):
        """Two critics as one."""

        def __init__(self) -> None:
            super().__init__()
            sizes = (4, 256, 256, 1)
            self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
            for a, b in zip(sizes, sizes[1:], strict=False):
                self.weights.append(torch.empty(2, a, b).uniform_(-1 / math.sqrt(a), 1 / math.sqrt(a)))
                self.biases.append(torch.empty(2, 1, b).uniform_(-1 / math.sqrt(a), 1 / math.sqrt(a)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu_(torch.baddbmm(self.biases[0], x.expand(2, *x.shape), self.weights[0]))
            x = torch.relu_(torch.baddbmm(self.biases[1], x, self.weights[1]))
            return (x * self.weights[2].mT).sum(-1) + self.biases[2].squeeze(-1)

    def draw(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = actor(states).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        slope = 2 * (math.log(2.0) - u - functional.softplus(-2 * u))
        return torch.tanh(u), (-0.5 * noise * noise - log_std - 0.5 * math.log(2 * math.pi) - slope).sum(-1)

    def update() -> None:
        index = torch.randint(count, (256,))
        states, actions, rewards, following, ended = (column.index_select(0, index) for column in columns)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            chosen, log_probs = draw(following)
            values = targets(torch.cat([following, chosen], -1)).amin(0) - alpha * log_probs
            goal = rewards + 0.99 * (1 - ended) * values
        loss = 0.5 * (critics(torch.cat([states, actions], -1)) - goal).square().mean(1).sum()
        for parameter, gradient in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            parameter.grad = gradient
        critic_optimiser.step()
        chosen, log_probs = draw(states)
        loss = (alpha * log_probs - critics(torch.cat([states, chosen], -1)).amin(0)).mean()
        for parameter, gradient in zip(acting, torch.autograd.grad(loss, acting), strict=True):
            parameter.grad = gradient
        actor_optimiser.step()
        log_alpha.grad = -(log_probs.detach().mean(0, keepdim=True) - 1.0)
        temperature_optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(slow, learned, 0.005)

    def run() -> None:
        nonlocal count, state
        for _ in range(STEPS):
            with torch.no_grad():
                action = draw(torch.from_numpy(state)[None])[0][0].numpy()
            reached, reward, terminated, truncated, _ = env.step(2.0 * action)
            for column, value in zip(arrays, (state, action, reward, reached, terminated), strict=True):
                column[count] = value
            count += 1
            state = env.reset()[0] if terminated or truncated else reached
            update()

    env = gymnasium.make("Pendulum-v1")
    state, _ = env.reset(seed=0)
    actor = nn.Sequential(nn.Linear(3, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
    critics = Twins()
    targets = copy.deepcopy(critics).requires_grad_(False)
    log_alpha = torch.zeros(1, requires_grad=True)
    learned, slow, acting = (list(module.parameters()) for module in (critics, targets, actor))
    critic_optimiser, actor_optimiser, temperature_optimiser = (
        torch.optim.Adam(parameters, 1e-3, fused=True) for parameters in (learned, acting, [log_alpha])
    )
    arrays = [np.zeros((1_000_000, *shape), np.float32) for shape in ((3,), (1,), (), (3,), ())]
    columns, count = [torch.from_numpy(array) for array in arrays], 0
    torch.set_flush_denormal(True)
    serve(run, calls=3, steps=STEPS, clock=time.process_time)


def main() -> None:
    from interleave import director_options, interleaved, report

    workers = {"ours": ours, "bare": bare}
    options = director_options(__doc__, workers, peer="stable-baselines3 2.9.2", rounds=10)
    if options is None:
        return
    own = [sys.executable, str(HERE / "soft_actor_critic.py"), "--worker"]
    commands = {"cai `SoftActorCritic`": [*own, "ours"], "bare loop": [*own, "bare"]}
    against = "bare loop"
    if options.peer_python:
        against = "Stable-Baselines3"
        commands[against] = [options.peer_python, str(HERE / "peers" / "sb3_soft_actor_critic.py")]
    times = interleaved(commands, options.rounds)
    print("CPU time of a step")
    print(report(times, against, digits=2))


if __name__ == "__main__":
    main()
