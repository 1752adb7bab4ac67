"""The fastest engine that can serve the policy here."""

from typing import Literal

from ftune.ppo.rollout.base import Engine, Policy, RolloutEngine
from ftune.ppo.rollout.generate import Generate


class Auto(RolloutEngine):
    """`graph` on CUDA where it can serve the model, else `generate`; the engine's `name` says which and why."""

    type: Literal["auto"] = "auto"
    """The fastest engine that can serve the model on this machine."""

    def open(self, policy: Policy) -> Engine:
        """The chosen engine at work."""
        shared = {key: getattr(self, key) for key in RolloutEngine.model_fields}
        if policy.model.device.type != "cuda":
            reason = f"on {policy.model.device.type}"
        else:
            from ftune.ppo.rollout.graph import Graph, graph_serves

            reason = graph_serves(policy)
            if not reason:
                return Graph(**shared).open(policy)
            reason = f"graph: {reason}"
        engine = Generate(**shared).open(policy)
        engine.name = f"generate ({reason})"
        return engine
