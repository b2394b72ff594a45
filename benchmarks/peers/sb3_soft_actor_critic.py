"""The peer's worker: SAC of stable-baselines3 2.9.2 on Pendulum-v1, with the hyper-parameters of its zoo.

Runs in an environment of its own, since it pins versions; `benchmarks/README.md` says how to make it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from stable_baselines3 import SAC

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from worker import serve

STEPS = 100

torch.set_num_threads(1)
model = SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, seed=0, device="cpu", verbose=0)
model.learn(STEPS, log_interval=10**9)
serve(
    lambda: model.learn(STEPS, reset_num_timesteps=False, log_interval=10**9),
    calls=3,
    steps=STEPS,
    clock=time.process_time,
)
