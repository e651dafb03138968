"""Reports of a run, all rendered from one value: HTML, Markdown, JUnit XML and gate.json."""
