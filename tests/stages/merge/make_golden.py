"""Makes the golden files: small tensors, merged by mergekit with each of its methods.

    python make_golden.py

It needs an environment with mergekit, and writes golden/mergekit.safetensors: a base and models as vectors
and as matrices, the numbers that random methods draw, and each case's output; and golden/cases.json: method,
inputs and parameters of each case. All is float32 save for linear in bfloat16. Written with mergekit 0.1.5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import save_file

GOLDEN = Path(__file__).with_name("golden")
SHAPES = {"matrix": (16, 24), "vector": (40,)}
MODELS = 3

WEIGHTS = {"weight": [0.7, 0.5, 1.1]}
SPARSE = {**WEIGHTS, "density": [0.5, 0.3, 1.0]}
TWO = {"weight": [0.4, 0.8]}
# Method, number of inputs beside the base, whether there is one, parameters (a list has one for each input).
CASES: list[tuple[str, int, bool, dict[str, Any]]] = [
    ("linear", 3, False, WEIGHTS),
    ("linear", 3, False, {**WEIGHTS, "normalize": False}),
    ("slerp", 1, True, {"t": 0.3}),
    ("nuslerp", 2, False, TWO),
    ("nuslerp", 2, True, TWO),
    ("nuslerp", 2, True, {**TWO, "nuslerp_flatten": False}),
    ("nuslerp", 2, False, {**TWO, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("multislerp", 3, False, WEIGHTS),
    ("multislerp", 3, True, WEIGHTS),
    ("multislerp", 2, True, {**TWO, "normalize_weights": False}),
    ("karcher", 3, False, {}),
    ("karcher", 2, False, {"max_iter": 3, "tol": 1e-7}),
    ("passthrough", 1, False, {"scale": [0.25]}),
    ("passthrough", 1, False, {}),
    ("model_stock", 3, True, {}),
    ("model_stock", 2, True, {"filter_wise": True}),
    ("arcee_fusion", 1, True, {}),
    ("nearswap", 1, True, {"t": 0.05}),
    ("sce", 3, True, {}),
    ("sce", 3, True, {"select_topk": 0.3}),
    ("ram", 3, True, {"epsilon": 0.1}),
    ("ramplus_tl", 3, True, {"epsilon": 0.1}),
    ("ramplus_tl", 3, True, {"epsilon": 0.2, "r": 0.5, "alpha": 2.0}),
    ("task_arithmetic", 3, True, {**WEIGHTS, "lambda": 0.6}),
    ("task_arithmetic", 3, True, {**WEIGHTS, "normalize": True}),
    ("ties", 3, True, SPARSE),
    ("ties", 3, True, {**SPARSE, "normalize": False, "rescale": True, "lambda": 1.5}),
    ("breadcrumbs", 3, True, {**SPARSE, "gamma": [0.02, 0.6, 0.1]}),
    ("breadcrumbs_ties", 3, True, {**SPARSE, "gamma": [0.02, 0.1, 0.1], "rescale": True}),
    ("dare_linear", 3, True, SPARSE),
    ("dare_ties", 3, True, {**SPARSE, "rescale": False, "normalize": True}),
    ("della", 3, True, SPARSE),
    ("della_linear", 3, True, {**SPARSE, "epsilon": [0.3, 0.05, 0.2], "lambda": 0.8}),
]


def main() -> None:
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for shape, size in SHAPES.items():
        base = torch.randn(size) * 0.5
        tensors[f"{shape}.base"] = base
        for number in range(MODELS):
            tensors[f"{shape}.model{number}"] = base + torch.randn(size) * 0.2
            tensors[f"{shape}.drawn{number}"] = torch.rand(size)
    cases = []
    for method, models, has_base, parameters in CASES:
        for shape in SHAPES:
            case = {"method": method, "models": models, "base": has_base, "parameters": parameters}
            cases += [{**case, "shape": shape, "dtype": "float32"}]
            if method == "linear":
                cases += [{**case, "shape": shape, "dtype": "bfloat16"}]
    for number, case in enumerate(cases):
        tensors[f"out{number}"] = merged(tensors, case)
    save_file(
        {name: each.contiguous().clone() for name, each in tensors.items()}, GOLDEN / "mergekit.safetensors"
    )
    lines = ",\n".join(json.dumps(case) for case in cases)
    (GOLDEN / "cases.json").write_text(f"[\n{lines}\n]\n")


def merged(tensors: dict[str, torch.Tensor], case: dict[str, Any]) -> torch.Tensor:
    shape, dtype = case["shape"], getattr(torch, case["dtype"])
    given = [tensors[f"{shape}.model{number}"] for number in range(case["models"])]
    parameters = dict(case["parameters"])
    if case["base"]:
        given.insert(0, tensors[f"{shape}.base"])
        ids = range(1, len(given))
    else:
        ids = range(len(given))
    parameters = {
        name: dict(zip(ids, value, strict=True)) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    # Inputs are pruned in their order, those of which all is kept not at all.
    pruned = [number for number, density in enumerate(case["parameters"].get("density", [])) if density < 1]
    draws = iter(pruned)

    def bernoulli(probabilities: torch.Tensor) -> torch.Tensor:
        drawn = tensors[f"{shape}.drawn{next(draws)}"].reshape(probabilities.shape)
        return (drawn < probabilities).to(probabilities.dtype)

    torch.bernoulli = bernoulli
    return merge_tensors(
        [each.to(dtype) for each in given],
        case["method"],
        parameters=parameters,
        base_index=0 if case["base"] else None,
    )


if __name__ == "__main__":
    main()
