"""Target profiles, the probe of this host, and the runtimes that open and run artifacts."""
