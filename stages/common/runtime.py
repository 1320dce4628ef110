"""How every stage that computes is set up: threads, seeds, and who may write to the terminal."""

import logging
import os
import warnings

THREADS = 2  # the committed numbers were computed with two


def set_up(seed: int) -> None:
    """Fix the thread count and the global seeds; keep library chatter off the terminal."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(THREADS)
    transformers.set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=False)
    # Debugging aid of deterministic mode: it writes every new tensor once more.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # The stages draw their own bars; the library's would scroll by between them.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # On CPUs with AVX512-BF16 bitsandbytes' import hints at a package of compiled kernels from a hub; a
    # user without it has nothing to do, and kernels from a hub should not run unseen.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # peft asks transformers for an attribute by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
