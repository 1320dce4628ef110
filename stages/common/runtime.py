"""How every stage that computes is set up: threads, seeds, and who may write to the terminal."""

import logging
import os
import warnings

THREADS = 2  # the committed numbers were computed with two


def quiet_libraries() -> None:
    """Keep off the terminal what a user cannot act on; errors still come through."""
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    # The stages draw their own bars; the library's would scroll by between them.
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    # Retries without a network, each with the address it tried; the stage says once what to do.
    hub_logging.set_verbosity_error()
    # On CPUs with AVX512-BF16 bitsandbytes' import hints at a package of compiled kernels from a hub; a
    # user without it has nothing to do, and kernels from a hub should not run unseen.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # int8 layers say at every forward that they compute in float16; params.yaml says it once.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # peft asks transformers for an attribute by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def set_up(seed: int) -> None:
    """Fix the thread count and the global seeds, ask for deterministic kernels."""
    quiet_libraries()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.set_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Debugging aid of deterministic mode: it writes every new tensor once more.
    torch.utils.deterministic.fill_uninitialized_memory = False
