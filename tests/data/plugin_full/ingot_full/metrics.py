"""Metrics: how far down the list of likeliest tokens the one that came stands, and some that break."""

from ingot.stages.validate.plugins import Window, metric


@metric("rank_loss", title="Rank loss", unit="", better="lower", comparison="absolute")
def rank_loss(window: Window) -> tuple[float, float]:
    """The mean of log2(1 + rank) of the token that came; of the reference as far as its list reaches."""
    import numpy as np

    came = window.ids[1:, None]
    listed = window.top.ids == came
    rank = np.where(listed.any(axis=1), listed.argmax(axis=1) + 1, listed.shape[1] + 1)
    logits = window.logits[:-1]
    own = 1 + (logits > np.take_along_axis(logits, came, axis=1)).sum(axis=1)
    own = np.minimum(own, listed.shape[1] + 1)
    return float(np.log2(1 + rank).sum()), float(np.log2(1 + own).sum())


@metric("own_nll", title="Own loss", unit="nat", better="lower", comparison="relative")
def own_nll(window: Window) -> tuple[float, float]:
    """The loss again, by another way than Ingot's own: an independent truth for its sums."""
    import numpy as np

    logits = window.logits[:-1].astype(np.float64)
    total = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    chosen = np.take_along_axis(logits, window.ids[1:, None], axis=1)[:, 0]
    return float(window.nll.sum(dtype=np.float64)), float((total - chosen).sum())


@metric("breaks", title="Breaks", unit="", better="lower", comparison="absolute")
def breaks(window: Window) -> tuple[float, float]:
    raise ZeroDivisionError("nothing to divide by")


@metric("another_name", title="Misnamed", unit="", better="lower", comparison="absolute")
def misnamed(window: Window) -> tuple[float, float]:
    return 0.0, 0.0
