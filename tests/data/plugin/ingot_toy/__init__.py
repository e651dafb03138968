"""A plugin as a third party writes one: stages found by entry points, used to test how nodes are run."""
