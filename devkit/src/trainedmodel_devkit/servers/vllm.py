"""vLLM on the CPU, with a tiny base model; adapters are loaded at run time.

It is large (with PyTorch about 7 GB on disk) and takes a minute to start, so tests on it are asked
for one by one. Its package is not named `vllm`, which hides its metadata from itself: the device is
named in the environment, and the API server is started as a module. With bfloat16 its attention
kernel dies of an illegal instruction on some machines: float32.
"""

from pathlib import Path

from trainedmodel_devkit.cache import building, cache_folder, locked
from trainedmodel_devkit.environments import ensure_environment
from trainedmodel_devkit.models_lora import write_base_model


class VLLM:
    """Launcher of vLLM.

    Args:
        max_loras: Adapters that one batch may use.
        max_cpu_loras: Adapters that it holds in memory; others are read again when asked for.
    """

    kind = "vllm"
    #: The name that the base model is served by.
    base = "base"

    def __init__(self, max_loras: int = 2, max_cpu_loras: int = 4) -> None:
        self._max_loras = max_loras
        self._max_cpu_loras = max_cpu_loras

    def ensure(self) -> None:
        """Install vLLM, and write its base model, at first use."""
        self._environment = ensure_environment("vllm", expected_s=300, with_dependencies=False)
        self._model = cache_folder() / "models" / "base-llama-1"
        if not self._model.exists():
            with locked(f"models/{self._model.name}"):
                if not self._model.exists():
                    with building(self._model) as draft:
                        write_base_model(draft)

    def command(self, model_dir: str | Path, port: int) -> list[str]:
        """Return the command line; adapters are loaded by their path, from any folder."""
        return [
            str(self._environment / "bin" / "python"),
            *("-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self._model)),
            *("--served-model-name", self.base),
            *("--host", "127.0.0.1"),
            *("--port", str(port)),
            *("--dtype", "float32"),
            "--enforce-eager",
            *("--max-model-len", "128"),
            *("--max-num-seqs", "4"),
            "--enable-lora",
            *("--max-loras", str(self._max_loras)),
            *("--max-cpu-loras", str(self._max_cpu_loras)),
            *("--max-lora-rank", "16"),
        ]

    def env(self, port: int) -> dict[str, str]:
        """Return what makes it a CPU server that lets adapters come and go."""
        return {
            "PATH": f"{self._environment / 'bin'}:/usr/bin:/bin",
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def ready_url(self, port: int) -> str:
        """Return health."""
        return f"http://127.0.0.1:{port}/health"
