"""`cai evaluate`: episodes of what was trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.distributions import Distribution

import cai
from cai.cli.errors import CommandError, one_line
from cai.cli.learning import Which
from cai.cli.options import parse_options
from cai.cli.problem import kind_and_text, make_shown
from cai.cli.progress import watched
from cai.cli.run_folder import Config, RunFolder
from cai.cli.training import graph_of
from cai.cli.training_report import print_evaluation
from cai.factors import greedy_action
from cai.inference.callbacks.evaluation import LONGEST_EPISODE
from cai.simulate.returns import Returns, run_episodes, world_for_episodes


def evaluate(
    folder: RunFolder, which: Which | None, num_episodes: int, seed: int, *, sample: bool, render: bool
) -> None:
    """Runs episodes of what was trained, and prints what they paid.

    Args:
        folder: Where.
        which: The posterior of the best evaluation, or at the end; None takes the best where there is one.
        num_episodes: How many episodes.
        seed: Episode i is reset with seed + i.
        sample: Whether actions are drawn; otherwise they are the most probable ones.
        render: Whether to show the episodes in a window, one after another.

    Raises:
        CommandError: There is nothing to evaluate, or it cannot be shown.
    """
    config = folder.read_config()
    file = _file(folder, which)
    choose = cai.plan.sampled_action if sample else greedy_action
    with watched(Console(stderr=True)) as work:
        work.enter(f"building {config.problem}")
        graph = graph_of(config)
        posterior = _loaded(file, graph)
        work.enter("running episodes")
        try:
            if render:
                returns = _shown(config, posterior, choose, num_episodes, seed)
            else:
                with closing(world_for_episodes(graph, num_episodes)) as world:
                    returns = _run(world, posterior, choose, num_episodes, seed)
        except (ValueError, cai.NonFinite) as error:
            raise CommandError(one_line(error)) from error
    print_evaluation(Console(), config.problem, posterior, returns, file.name)


def _file(folder: RunFolder, which: Which | None) -> Path:
    files = {Which.BEST: folder.best, Which.LAST: folder.last}
    wanted = [which] if which is not None else [Which.BEST, Which.LAST]
    for one in wanted:
        if files[one].exists():
            return files[one]
    names = " or ".join(files[one].name for one in wanted)
    raise CommandError(f"{folder.path}: no {names} is here yet; cai train --resume --out {folder.path} goes on")


def _loaded(file: Path, graph: cai.TrajectoryGraph) -> cai.Posterior:
    try:
        return cai.load(file, graph=graph)
    except ValueError as error:  # CorruptFile is one
        raise CommandError(one_line(error)) from error


def _run(
    world: cai.simulate.AbstractWorld,
    posterior: cai.Posterior,
    choose: Callable[[Distribution], Tensor],
    num_episodes: int,
    seed: int,
) -> Returns:
    return run_episodes(
        world,
        lambda states: choose(posterior.policy(states)),
        num_episodes,
        seed=seed,
        length=LONGEST_EPISODE,
        terminal_reward=posterior.graph.terminal_reward,
    )


def _shown(
    config: Config, posterior: cai.Posterior, choose: Callable[[Distribution], Tensor], num_episodes: int, seed: int
) -> Returns:
    with closing(make_shown(config.problem, parse_options(config.options))) as env:
        try:
            run = cai.rollout(
                env,
                lambda state, t: choose(posterior.policy(state)),
                num_episodes,
                seed=seed,
                length=LONGEST_EPISODE,
            )
        except Exception as error:  # what opens windows may raise anything, first of all where there is no screen
            raise CommandError(f"cannot show {config.problem}: {kind_and_text(error)}") from error
    rewards = run.rewards.to(torch.float64)  # type: ignore[union-attr]
    return Returns(torch.where(run.mask, rewards, 0.0).sum(1), run.lengths)
