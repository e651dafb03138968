"""Every merge method is a stage of its own, and the stage of mergekit's recipes depends on all of them."""

from __future__ import annotations

import pytest
from ingot.artifacts.schema import fields
from ingot.pipeline.sources import closure
from ingot.stages import base
from ingot.stages.merge import method, stage


@pytest.mark.parametrize("name", method.BUILTIN)
def test_every_method_is_a_stage_with_its_parameters(name: str) -> None:
    found, declared = base.get(f"merge.{name}"), method.get(name)
    assert {each.name for each in declared.parameters} <= set(fields(found.params))
    assert found.determinism == "seeded"
    assert ("tokenizers" in found.tools) == (declared.statistics is not None)
    assert found.many == {"model": ("checkpoint",)}


@pytest.mark.parametrize("name", method.BUILTIN)
def test_the_source_of_a_method_belongs_to_its_own_key_and_to_that_of_recipes(name: str) -> None:
    module = f"{method.MODULES}.{name}"
    assert base.get(f"merge.{name}").module == module
    assert {module, stage.__name__} <= closure(module)
    assert module in closure(base.get("merge").module)


def test_every_merge_stage_but_the_search_is_a_method() -> None:
    stages = {name.removeprefix("merge.") for name in base.BUILTIN if name.startswith("merge.")}
    assert stages == {*method.BUILTIN, "search"}
