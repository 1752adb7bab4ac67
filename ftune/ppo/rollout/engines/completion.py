"""Where a completion ends."""

from collections.abc import Sequence

from ftune.ppo.rollout.base import Rollout


def completion(
    prompt_ids: list[int], token_ids: Sequence[int], logprobs: Sequence[float] | None, stop_ids: Sequence[int]
) -> Rollout:
    """The tokens up to and including the first stop token; what an engine put behind it is dropped.

    The end is told by the stop token alone, never by padding: the two are one and the same token in many models.
    """
    length = next((place for place, token in enumerate(token_ids, 1) if token in stop_ids), None)
    return Rollout(
        prompt_ids=prompt_ids,
        token_ids=list(token_ids[:length]),
        stopped=length is not None,
        logprobs=None if logprobs is None else list(logprobs[:length]),
    )
