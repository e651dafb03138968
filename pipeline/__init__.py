"""From a recipe to a gated, delivered artifact: graph, plan, execution, gate, report, command line."""
