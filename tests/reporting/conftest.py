from trained_runs import healthy, shared, trained, waves_dir, without_lpips, workdir  # noqa: F401 - fixtures
