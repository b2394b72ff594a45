"""The peer's worker: SAC of stable-baselines3 2.9.2, a line of JSON for each evaluation.

Runs in an environment of its own, since it pins versions; `benchmarks/README.md` says how to make it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from stable_baselines3 import SAC

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from evaluation import episode_returns

env_id, seed, num_steps, every, options = sys.argv[1], *map(int, sys.argv[2:5]), json.loads(sys.argv[5])
torch.set_num_threads(1)
model = SAC("MlpPolicy", env_id, seed=seed, device="cpu", verbose=0, **options)
seconds = 0.0
for done in range(every, num_steps + 1, every):
    started = time.process_time()
    model.learn(every, reset_num_timesteps=done == every, log_interval=10**9)
    seconds += time.process_time() - started
    returns = episode_returns(env_id, lambda states: model.predict(states, deterministic=True)[0])
    print(json.dumps({"step": done, "returns": returns, "cpu_seconds": round(seconds, 2)}), flush=True)
