import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What is tested runs for seconds, and would compile for minutes. Each module is compiled in one piece, which takes four
# fifths of the time of several. The last flag, which halves the time, is jaxlib 0.10's alone; later versions refuse it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "float32")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    if hasattr(config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        # Another worker may be writing the entry; JAX then compiles for itself.
        config.addinivalue_line("filterwarnings", "ignore:Error (reading|writing) persistent compilation cache entry")


@pytest.fixture
def strict_promotion():
    """No implicit promotion of types. Optax's Adam, and so the whole step, does not run with it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def as_on(monkeypatch):
    """Has the forms of another platform used; CPUs can run them, too."""

    def use(platform):
        def choose(*arguments, default, **forms):
            return forms.get(platform, default)(*arguments)

        monkeypatch.setattr(jax.lax, "platform_dependent", choose)

    return use


@pytest.fixture(scope="module")
def one_device():
    """As on a machine with one device, where runs and models compile faster."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda: first)
        patch.setattr(jax, "local_devices", lambda: first)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))
