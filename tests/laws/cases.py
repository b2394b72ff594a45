"""The variants of a tabular problem that every law has to survive, as options of `oracles.random_problem`."""

from __future__ import annotations

import pytest

CASES = {
    "plain": {},
    "reward s": {"reward": "s"},
    "reward sa": {"reward": "sa"},
    "uniform prior": {"prior": "uniform"},
    "flat prior": {"prior": "flat"},
    "flat prior, action sets": {"prior": "flat-available", "num_actions": 3},
    "prior with zeros": {"prior": "restricted", "num_actions": 3},
    "forbidden transitions": {"density": 0.4, "num_states": 4},
    "deterministic": {"deterministic": True, "num_states": 4},
    "dynamics per step": {"per_step": ("dynamics",)},
    "reward per step": {"per_step": ("reward",), "reward": "sa"},
    "all per step": {"per_step": ("dynamics", "reward", "prior")},
    "terminal": {"num_terminal": 1},
    "terminal reward at the horizon": {"terminal_reward": True},
    "terminal states and rewards": {"num_terminal": 2, "terminal_reward": True, "num_states": 4},
    "terminal, flat prior": {"num_terminal": 1, "prior": "flat"},
    "terminal, per step": {"num_terminal": 1, "terminal_reward": True, "per_step": ("dynamics", "reward", "prior")},
    "discount": {"discount": 0.8},
    "discount 0": {"discount": 0.0},
    "discount, terminal, forbidden": {"discount": 0.7, "num_terminal": 1, "density": 0.5, "prior": "restricted"},
    "discount, terminal, terminal reward": {"discount": 0.7, "num_terminal": 1, "terminal_reward": True},
    "cold": {"temperature": 0.05},
    "hot": {"temperature": 30.0},
    "one action": {"num_actions": 1},
    "one step": {"horizon": 1, "terminal_reward": True},
}

cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)
