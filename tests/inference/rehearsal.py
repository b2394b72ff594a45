"""A method that learns nothing: every number it reports is known beforehand, and its state is cheap to follow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical

import cai
from cai.data.serialization import serializable
from cai.errors import Unavailable
from cai.inference import History, LearnedPosterior, Progress, Stats


class TableLearner:
    """A policy by a table of logits, and values by tables where there are some."""

    def __init__(self, logits: Tensor, q: Tensor | None = None) -> None:
        self.logits, self.table = logits, q

    def policy(self, state: Any) -> Categorical:
        return Categorical(logits=self.logits[torch.as_tensor(state)])

    def q(self, state: Any, action: Any) -> Tensor:
        if self.table is None:
            raise Unavailable("no q here")
        return self.table[torch.as_tensor(state), torch.as_tensor(action)]

    def v(self, state: Any) -> Tensor:
        raise Unavailable("no v here")

    def memory(self) -> dict[str, Any]:
        return {"logits": self.logits, "q": self.table}

    def remember(self, memory: dict[str, Any]) -> None:
        self.logits, self.table = memory["logits"], memory["q"]


@dataclass
class Stage:
    """Where a rehearsal stands."""

    graph: Any
    learner: TableLearner
    generator: torch.Generator
    history: History = field(default_factory=History)
    num_steps: int = 0
    writes: int = 0


@serializable
class StageMemory:
    """A stage as it is when it is written."""

    def __init__(self, stage: Stage | None) -> None:
        self.stage = stage
        self.parts: dict[str, Any] = {}

    def pack(self) -> dict[str, Any]:
        stage = self.stage
        if stage is None:
            return self.parts
        stage.writes += 1
        return {
            "num_steps": stage.num_steps,
            "learned": stage.learner.memory(),
            "random": stage.generator.get_state(),
            "history": stage.history,
        }

    @classmethod
    def unpack(cls, parts: dict[str, Any]) -> StageMemory:
        memory = cls(None)
        memory.parts = parts
        return memory


@serializable
@dataclass(frozen=True)
class Rehearsal(cai.AbstractMethod):
    """Reports every `interval` steps: report k prefers the action `favourites[k]`, and has the return `returns[k]`.

    Beyond the end of these the last one counts; without favourites the table is a random walk.
    """

    num_steps: int = 1000
    interval: int = 100
    favourites: tuple[int, ...] = ()
    returns: tuple[float, ...] = ()
    size: int = 1
    error_at: int = 0
    is_anytime: ClassVar[bool] = True

    @property
    def identity(self) -> Rehearsal:
        return replace(self, num_steps=1)

    def accepts(self, graph: Any) -> None:
        pass

    def learner(self, graph: cai.TrajectoryGraph) -> TableLearner:
        num_states, num_actions = (int(getattr(graph, f"{name}_space").n) for name in ("state", "action"))
        return TableLearner(torch.zeros(num_states * self.size, num_actions))

    def init(self, graph: Any, seed: int | None) -> Stage:
        return Stage(graph, self.learner(graph), torch.Generator().manual_seed(seed or 0))

    def step(self, graph: Any, state: Stage) -> Stage:
        logits = state.learner.logits
        index = state.num_steps // self.interval
        state.num_steps += self.interval
        if state.num_steps == self.error_at:
            raise cai.NonFinite("the rehearsal broke")
        if self.favourites:
            logits = torch.zeros_like(logits)
            logits[:, self.favourites[min(index, len(self.favourites) - 1)]] = 3.0
        else:
            logits = logits + torch.randn(logits.shape, generator=state.generator)
        state.learner.logits = logits
        row: dict[str, float] = {"num_steps": state.num_steps, "entropy": float(state.learner.policy(0).entropy())}
        if self.returns:
            row["return"] = self.returns[min(index, len(self.returns) - 1)]
        state.history.append(row)
        return state

    def is_done(self, state: Stage) -> bool:
        return state.num_steps >= self.num_steps

    def posterior(self, graph: Any, state: Stage, seconds: float) -> LearnedPosterior:
        stats = Stats(state.num_steps, self.is_done(state), seconds=seconds)
        return LearnedPosterior(graph, self, stats, state.learner, state.history)

    def progress(self, state: Stage, seconds: float) -> Progress:
        return Progress(
            state.num_steps,
            float("nan"),
            float("inf"),
            seconds,
            StageMemory(state),
            total_steps=self.num_steps,
            metrics=state.history.rows[-1],
            posterior=lambda: self.posterior(state.graph, state, seconds),
        )

    def restore(self, state: Stage, checkpoint: StageMemory) -> Stage:
        parts = checkpoint.parts
        state.num_steps, state.history = parts["num_steps"], parts["history"]
        state.learner.remember(parts["learned"])
        state.generator.set_state(parts["random"])
        return state

    def evaluation(self, posterior: LearnedPosterior) -> Any:
        return cai.infer(posterior.graph, cai.PolicyEvaluation(posterior.policy))


class StopAt(cai.AbstractCallback):
    """Stops, or breaks, at a step."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error = step, error or cai.StopInference("that will do")

    def on_step(self, progress: Progress) -> None:
        if progress.num_steps >= self.step:
            raise self.error
