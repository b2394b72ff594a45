"""What a world of samples refuses: learners answer the stationary problem, in states that they see."""

from __future__ import annotations

from cai.graph.trajectory_graph import TrajectoryGraph


def need_stationary(graph: TrajectoryGraph) -> None:
    """Refuses a graph whose samples would not be those of one stationary problem in its states.

    Raises:
        ValueError: Dynamics or reward change with time, states are hidden, or something of the trajectory is known.
    """
    for slot in ("dynamics", "reward"):
        factor = getattr(graph, slot)
        if getattr(factor, "time_varying", False) or getattr(factor, "num_steps", None) is not None:
            raise ValueError(
                f"{slot}: {type(factor).__name__} changes with time, and samples are of a problem that is the same at "
                "every step; exact and planning methods answer the other"
            )
    if graph.observation is not None:
        raise ValueError(
            "the graph's states are hidden behind its observation factor, and samples show states: "
            "replace(observation=None)"
        )
    if graph.evidence:
        raise ValueError(
            "samples of the dynamics know nothing of the graph's evidence; exact methods do, or take it out: "
            "replace(evidence=cai.Evidence())"
        )
