"""The built-in target profiles, as YAML data."""
