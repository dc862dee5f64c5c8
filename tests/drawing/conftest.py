from trained_runs import healthy, shared, trained, waves_dir, workdir  # noqa: F401 - fixtures
