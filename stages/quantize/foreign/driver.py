"""Runs another library's quantizer on one job, in the environment that has it: it imports nothing of ours.

    PYTHON -I driver.py JOBDIR

`request.json` in JOBDIR says what to do and `answer.json`, written last, what it took. The checkpoint that
the library saves is in JOBDIR/checkpoint: llm-compressor's in the compressed-tensors layout, GPTQModel's in
GPTQ's.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Request = Mapping[str, Any]


def main(directory: Path) -> None:
    """Quantizes the model of the request, saves it and answers."""
    request = json.loads((directory / "request.json").read_text("utf-8"))
    # GPTQModel's pool for loading asks for two workers, and fails where it was told of one core.
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(max(2, request["threads"]))
    import torch

    torch.set_num_threads(request["threads"])
    torch.manual_seed(request["seed"])
    library = {"llmcompressor": llmcompressor, "gptqmodel": gptqmodel}[request["library"]]
    answer = {**library(request, directory), "max_rss_bytes": peak_bytes()}
    (directory / "answer.part").write_text(json.dumps(answer), "utf-8")
    (directory / "answer.part").rename(directory / "answer.json")


def llmcompressor(request: Request, directory: Path) -> dict[str, object]:
    """llm-compressor's one-shot flow, on one sample at a time as is its default."""
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    notes = spare_pinned_memory() if request["algorithm"] == "awq" else []
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=request["dtype"])
    recipe = modifiers(request)
    data: dict[str, object] = {}
    if request["algorithm"] != "rtn":
        samples = request["samples"]
        loader = torch.utils.data.DataLoader(samples, batch_size=1, collate_fn=batch)
        data = {"dataset": loader, "num_calibration_samples": len(samples)}
    spent = timed(lambda: oneshot(model=model, recipe=recipe, **data))
    model.save_pretrained(directory / "checkpoint", save_compressed=True)
    return {**spent, "dtype": request["dtype"], "notes": notes}


def modifiers(request: Request) -> list[Any]:
    """The recipe: GPTQ rounds by itself; AWQ moves scales between weights, then a quantizer rounds."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    groups = {}
    for number, form in enumerate(request["formats"]):
        size = form["group_size"]
        weights = {
            "num_bits": form["bits"],
            "type": "int",
            "symmetric": form["sym"],
            "strategy": "group" if size else "channel",
            "group_size": size or None,
        }
        groups[f"group_{number}"] = {"targets": form["modules"], "weights": weights}
    if request["algorithm"] == "gptq":
        damping = {} if request["damp_percent"] is None else {"dampening_frac": request["damp_percent"]}
        order = "static" if request["desc_act"] else None
        return [GPTQModifier(config_groups=groups, actorder=order, **damping)]
    quantizer = QuantizationModifier(config_groups=groups)
    if request["algorithm"] == "rtn":
        return [quantizer]
    from llmcompressor.modifiers.transform.awq import AWQModifier

    return [AWQModifier(), quantizer]


def batch(samples: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Samples of one length as tensors, int64 [batch, length]."""
    import torch

    ids = torch.tensor(samples)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def spare_pinned_memory() -> list[str]:
    """Lets AWQ run without an accelerator, where pinning memory for transfers fails and serves nothing."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if torch.cuda.is_available() or not hasattr(IntermediatesCache, "pin_memory"):
        return []
    IntermediatesCache.pin_memory = lambda *_args, **_kwargs: None
    return ["AWQ of llm-compressor ran without pinned memory, which fails where there is no accelerator"]


def gptqmodel(request: Request, directory: Path) -> dict[str, object]:
    """GPTQModel's own loop; its act-order keeps groups where they are (`act_group_aware`)."""
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    damping = {} if request["damp_percent"] is None else {"damp_percent": request["damp_percent"]}
    first, *others = request["formats"]
    dynamic: dict[str, dict[str, object]] = {f"-:^{re.escape(name)}$": {} for name in request["skipped"]}
    for form in others:
        own = {"bits": form["bits"], "group_size": form["group_size"] or -1, "sym": form["sym"]}
        dynamic.update({f"+:^{re.escape(name)}$": own for name in form["modules"]})
    config = QuantizeConfig(
        bits=first["bits"],
        group_size=first["group_size"] or -1,
        sym=first["sym"],
        desc_act=False,
        act_group_aware=request["desc_act"],
        dynamic=dynamic or None,
        offload_to_disk_path=str(directory / "offload"),
        **damping,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPTQModel.load(request["model"], config, dtype=getattr(torch, request["dtype"]), device=device)
    samples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in request["samples"]]
    spent = timed(lambda: model.quantize(samples, batch_size=1))
    model.save(str(directory / "checkpoint"))
    return {**spent, "dtype": request["dtype"], "notes": []}


def timed(work: Callable[[], object]) -> dict[str, object]:
    """Does the work; the seconds that it took, by the clock and of the processor in all its threads."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}


def peak_bytes() -> int:
    """The most that this process had resident at once."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose getrusage starts at what the parent held
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


if __name__ == "__main__":
    main(Path(sys.argv[1]))
