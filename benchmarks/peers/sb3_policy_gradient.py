"""The peer's worker: PPO, A2C (stable-baselines3 2.9.2) and TRPO (sb3-contrib 2.9.2) on CartPole-v1.

Hyper-parameters of rl-baselines3-zoo. Runs in an environment of its own, since it pins versions; `benchmarks/README.md`
says how to make it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation import episode_returns
from policy_gradient import ENV_ID, EVERY, TARGET
from stopwatch import Stopwatch

ZOO: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "PPO": (
        PPO,
        8,
        {"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0}
        | {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left},
    ),
    "A2C": (A2C, 8, {"ent_coef": 0.0}),
    "TRPO": (
        TRPO,
        2,
        {"n_steps": 512, "batch_size": 512, "cg_damping": 1e-3, "gae_lambda": 0.98, "gamma": 0.99}
        | {"learning_rate": 1e-3, "n_critic_updates": 20},
    ),
}
#: What the zoo's schedules are spread over, whenever a run is stopped.
ZOO_STEPS = 100_000


class Evaluation(BaseCallback):
    """Evaluates now and then; the watch stands still meanwhile."""

    last = 0

    def _on_step(self) -> bool:
        if self.num_timesteps - self.last < EVERY:
            return self.num_timesteps < num_steps
        self.last = self.num_timesteps
        watch.stop()
        watch.note(
            self.num_timesteps,
            episode_returns(ENV_ID, lambda states: self.model.predict(states, deterministic=True)[0]),
        )
        watch.start()
        return self.num_timesteps < num_steps and watch.latest < TARGET


algorithm, seed, num_steps = sys.argv[1], *map(int, sys.argv[2:4])
torch.set_num_threads(1)
make, num_envs, settings = ZOO[algorithm]
model = make("MlpPolicy", make_vec_env(ENV_ID, num_envs, seed=seed), seed=seed, device="cpu", verbose=0, **settings)
watch = Stopwatch()
watch.start()
model.learn(ZOO_STEPS, callback=Evaluation(), log_interval=10**9)
watch.report()
