"""What emulated processors measured, as cells of tables: quality, counts and memory, and never a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..metrics import METRICS, metric_title
from ..units import MISSING, show, show_bytes, show_delta

if TYPE_CHECKING:
    from ..measurements import Emulated

TITLE = "On emulated processors"
HEAD = (
    "Emulated", "Metric", "Emulated kernels", "This host's", "Apart", "Tokens",
    "Instructions a prompt's token", "Of these dot products", "Instructions a decoded token", "Peak memory",
)  # fmt: skip
NOTE = (
    "Through the kernels that the processor itself would choose, beside this host's on the same tokens. "
    "Instructions are counted, not timed: emulated time says nothing of a device's. Memory is of the whole "
    "process, the emulator's translated code included."
)


def cells(found: Emulated) -> tuple[str, ...]:
    """The cells of a line under HEAD."""
    unit = METRICS[found.metric].unit
    return (
        found.processor,
        metric_title(found.metric),
        show(found.value, unit),
        show(found.host, unit),
        show_delta(found.value / found.host - 1, "fraction", "relative"),
        f"{found.tokens:,}",
        f"{found.instructions:,}",
        f"{found.dot_products:,}",
        MISSING if found.decode_instructions is None else f"{found.decode_instructions:,}",
        show_bytes(found.peak_memory_bytes),
    )


def sentence(found: Emulated) -> str:
    """The same on a terminal's line."""
    name, metric, value, host, apart, tokens, whole, _, decoded, _ = cells(found)
    ending = "" if decoded == MISSING else f", {decoded} a decoded one"
    return (
        f"emulated {name}: {metric.lower()} {value} on {tokens} tokens ({apart} beside this host's {host}), "
        f"{whole} instructions a token of a prompt{ending}"
    )
